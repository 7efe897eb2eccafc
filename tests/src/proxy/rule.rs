//! Which commands something is to happen to, and what. Knows no connections.

use super::resp::Command;
use crate::PATIENCE;
use std::sync::{Arc, Mutex};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// Which commands: all that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    name: Option<String>,
    script: Option<String>,
    texts: Vec<String>,
    times: Option<u64>,
}

impl Pattern {
    /// Every command.
    pub fn any() -> Self {
        Self::default()
    }

    /// Commands of this name, such as `RPUSH`. `EVALSHA` stands for all scripts.
    pub fn command(name: &str) -> Self {
        Self { name: Some(name.to_uppercase()), ..Self::default() }
    }

    /// The script of the host that is in the file of this name, such as `detach`. The node must have been built from the
    /// sources that the tests were built from.
    pub fn script(name: &str) -> Self {
        Self { script: Some(name.to_owned()), ..Self::default() }
    }

    /// And has this text somewhere in its keys and arguments, such as `:session:`.
    pub fn containing(mut self, text: &str) -> Self {
        self.texts.push(text.to_owned());
        self
    }

    /// Only the next so many of them; without it all until the rule is released.
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
pub enum Fate {
    Hold,
    Detain,
    HoldAnswer,
    LoseAnswer,
    Drop,
    Fail,
}

/// A rule in force. Dropping it releases it.
#[must_use = "a rule that is dropped is released"]
pub struct Rule(Arc<State>);

struct State {
    pattern: Pattern,
    fate: Fate,
    matched: watch::Sender<u64>,
    released: CancellationToken,
}

impl Rule {
    /// How many commands it has met.
    pub fn count(&self) -> u64 {
        *self.0.matched.borrow()
    }

    /// Waits until it has met a command.
    pub async fn matched(&self) {
        self.matched_times(1).await;
    }

    /// Waits until it has met so many.
    pub async fn matched_times(&self, times: u64) {
        let mut matched = self.0.matched.subscribe();
        let met = timeout(PATIENCE, matched.wait_for(|count| *count >= times)).await;
        assert!(met.is_ok(), "{:?} met {} of {times} commands", self.0.pattern, self.count());
    }

    /// Lets go what it holds, and meets nothing more.
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
    pub fn add(&self, pattern: Pattern, fate: Fate) -> Rule {
        let state =
            State { pattern, fate, matched: watch::Sender::new(0), released: CancellationToken::new() };
        let state = Arc::new(state);
        self.0.lock().expect("no panic").push(state.clone());
        Rule(state)
    }

    /// The first rule that meets a command decides: what happens, and until when.
    pub fn judge(&self, command: &Command, script: Option<&str>) -> Option<(Fate, CancellationToken)> {
        let mut rules = self.0.lock().expect("no panic");
        rules.retain(|rule| !rule.released.is_cancelled());
        let is_left = |rule: &State| rule.pattern.times.is_none_or(|times| *rule.matched.borrow() < times);
        let rule = rules.iter().find(|rule| is_left(rule) && rule.pattern.matches(command, script))?;
        rule.matched.send_modify(|count| *count += 1);
        Some((rule.fate, rule.released.clone()))
    }
}
