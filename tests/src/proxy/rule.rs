//! The rules that select commands and decide what happens to them. Knows no connections.

use super::resp::Command;
use crate::EVENT_TIMEOUT;
use std::sync::{Arc, Mutex};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// Selects commands. All given conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    name: Option<String>,
    script: Option<String>,
    texts: Vec<String>,
    times: Option<u64>,
}

impl Pattern {
    /// Matches every command.
    pub fn any() -> Self {
        Self::default()
    }

    /// Matches commands with this name, such as `RPUSH`. `EVALSHA` matches all scripts.
    pub fn command(name: &str) -> Self {
        Self { name: Some(name.to_uppercase()), ..Self::default() }
    }

    /// Matches the host's script in the file with this name, such as `detach`. The node must have been built
    /// from the same sources as the tests.
    pub fn script(name: &str) -> Self {
        Self { script: Some(name.to_owned()), ..Self::default() }
    }

    /// Requires this text somewhere in the keys and arguments, such as `:session:`.
    pub fn containing(mut self, text: &str) -> Self {
        self.texts.push(text.to_owned());
        self
    }

    /// Limits the rule to the next `count` commands. Without it, the rule applies until it is released.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    fn matches(&self, command: &Command, script: Option<&str>) -> bool {
        let name = if command.name == "EVAL" { "EVALSHA" } else { &command.name };
        self.name.as_ref().is_none_or(|wanted| wanted == name || *wanted == command.name)
            && self.script.as_ref().is_none_or(|wanted| script == Some(wanted))
            && self.texts.iter().all(|text| command.contains(text))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Hold,
    Delay,
    HoldAnswer,
    LoseAnswer,
    Drop,
    Fail,
}

/// An active rule. Dropping it releases it.
#[must_use = "a rule that is dropped is released"]
pub struct Rule(Arc<State>);

struct State {
    pattern: Pattern,
    action: Action,
    matched: watch::Sender<u64>,
    released: CancellationToken,
}

impl Rule {
    /// The number of commands that the rule applied to.
    pub fn count(&self) -> u64 {
        *self.0.matched.borrow()
    }

    /// Waits until the rule has applied to a command.
    pub async fn matched(&self) {
        self.matched_times(1).await;
    }

    /// Waits until the rule has applied to `count` commands.
    pub async fn matched_times(&self, times: u64) {
        let mut matched = self.0.matched.subscribe();
        let met = timeout(EVENT_TIMEOUT, matched.wait_for(|count| *count >= times)).await;
        assert!(met.is_ok(), "{:?} met {} of {times} commands", self.0.pattern, self.count());
    }

    /// Releases what the rule holds, and ends the rule.
    pub fn release(self) {}
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.0.released.cancel();
    }
}

#[derive(Default)]
pub struct Rules(Mutex<Vec<Arc<State>>>);

impl Rules {
    pub fn add(&self, pattern: Pattern, action: Action) -> Rule {
        let state =
            State { pattern, action, matched: watch::Sender::new(0), released: CancellationToken::new() };
        let state = Arc::new(state);
        self.0.lock().expect("no panic").push(state.clone());
        Rule(state)
    }

    /// The first rule that matches a command decides what happens to it, and until when.
    pub fn decide(&self, command: &Command, script: Option<&str>) -> Option<(Action, CancellationToken)> {
        let mut rules = self.0.lock().expect("no panic");
        rules.retain(|rule| !rule.released.is_cancelled());
        let is_left = |rule: &State| rule.pattern.times.is_none_or(|times| *rule.matched.borrow() < times);
        let rule = rules.iter().find(|rule| is_left(rule) && rule.pattern.matches(command, script))?;
        rule.matched.send_modify(|count| *count += 1);
        Some((rule.action, rule.released.clone()))
    }
}
