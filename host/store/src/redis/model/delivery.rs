//! Delivers commands to Redis and answers to nodes, or loses them; and lets time pass.

use super::{
    checker::ConnectionFacts,
    client::{ModelConnection, State},
    network::{InFlightCall, RedisCall},
    world::World,
};
use crate::{ConnectionId, Unavailable};
use fred::types;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What happens to a command.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// It is executed and answered.
    Answered,
    /// It is executed, but the answer is lost.
    AnswerLost,
    /// The node gives up. The command may be executed later.
    GivenUp,
}

impl World {
    pub(super) fn find(&self, which: impl Fn(&InFlightCall) -> bool) -> Option<usize> {
        let queue = self.network.calls();
        queue.messages.iter().position(|message| queue.is_awaited(message) && which(message))
    }

    /// The nth command that a node waits for, or that a node has given up.
    pub(super) fn nth(&self, nth: usize, is_awaited: bool) -> Option<usize> {
        let queue = self.network.calls();
        let mut found = queue.messages.iter().enumerate();
        let mut of_these = found.by_ref().filter(|(_, message)| queue.is_awaited(message) == is_awaited);
        of_these.nth(nth).map(|(at, _)| at)
    }

    pub(super) fn deliver(&mut self, at: usize, fate: Fate) {
        if fate == Fate::GivenUp {
            let mut queue = self.network.calls();
            let (answer, _) = tokio::sync::oneshot::channel();
            let waiter = std::mem::replace(&mut queue.messages[at].answer, answer);
            let name = queue.messages[at].call.name();
            drop(queue);
            waiter.send(Err(Unavailable("cut off".to_owned()))).ok();
            self.trace(|| format!("  cut off: {name}"));
            return;
        }
        let InFlightCall { process, call, sent, answer } = self.network.calls().messages.remove(at);
        if let RedisCall::Command("SADD", arguments) = &call
            && answer.is_closed()
        {
            self.late_owned_entries.extend(arguments[1..].iter().cloned());
        }
        let (value, wrong) = match self.execute(&call, sent) {
            Ok(value) => (value, None),
            Err((value, wrong)) => (value, Some(wrong)),
        };
        let is_routine = is_routine(&call, &value);
        self.trace(|| {
            if is_routine {
                return String::new();
            }
            let what = match &call {
                RedisCall::Script(script, keys, arguments) => {
                    format!("{} {} {arguments:?}", script.name, keys[0])
                }
                RedisCall::Command(name, arguments) => format!("{name} {arguments:?}"),
            };
            let lost = if fate == Fate::Answered && !answer.is_closed() { "" } else { ", to nobody" };
            format!("  {process}: {what} -> {value:?}{lost}")
        });
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
        self.expect_as_confirmed(&call, &value);
        let answered = match fate {
            Fate::Answered => Ok(value),
            _ => Err(Unavailable("cut off".to_owned())),
        };
        answer.send(answered).ok();
    }

    /// After a node has released a session whose client had all answers, it has exactly the rooms that the
    /// client knows.
    fn expect_as_confirmed(&mut self, call: &RedisCall, answer: &types::Value) {
        let RedisCall::Script(script, _, arguments) = call else { return };
        let status = |parts: &[types::Value]| parts.first()?.as_string();
        let is_let_go =
            matches!(answer, types::Value::Array(parts) if status(parts).as_deref() == Some("ok"));
        if script.name != "release_session"
            || !arguments[1].is_empty()
            || !is_let_go
            || self.checker.lost_data
        {
            return;
        }
        let id = ConnectionId::parse(&arguments[0]);
        let connection = self.connections.iter().find(|connection| Some(connection.id) == id);
        if let Some(ModelConnection { told, client, is_answered: true, token, .. }) = connection
            && self.clients[*client].token == *token
        {
            self.clients[*client].set_known(told);
        }
    }

    pub(super) fn execute(
        &mut self,
        call: &RedisCall,
        sent: Instant,
    ) -> Result<types::Value, (types::Value, String)> {
        let (connections, clients) = (&self.connections, &self.clients);
        let known = |text: &str| {
            let id = ConnectionId::parse(text)?;
            let at = connections.iter().position(|connection| connection.id == id)?;
            let connection = &connections[at];
            let lives = connection.state == State::Open && clients[connection.client].current == Some(at);
            Some(ConnectionFacts { requested_at: connection.requested_at, lives })
        };
        self.checker.execute(&self.engine, call, sent, known)
    }

    /// Delivers all of these commands, and those that follow from them. Returns whether there were any.
    pub(super) async fn deliver_all(&mut self, which: impl Fn(&Self, &InFlightCall) -> bool) -> bool {
        let mut any = false;
        for _ in 0..400 {
            self.settle().await;
            let Some(at) = self.find(|message| which(self, message)) else { return any };
            any = true;
            self.deliver(at, Fate::Answered);
        }
        self.fail("commands keep coming without end".to_owned());
        any
    }

    /// Whether the node of a command reaches Redis.
    pub(super) fn is_reachable(&self, message: &InFlightCall) -> bool {
        self.node(message.process).is_some_and(|node| !node.is_isolated)
    }

    /// Lets time pass, and delivers these of the commands that are sent meanwhile.
    pub(super) async fn advance_time(
        &mut self,
        time: Duration,
        which: impl Fn(&Self, &InFlightCall) -> bool,
    ) {
        let end = Instant::now() + time;
        let network = self.network.clone();
        loop {
            self.deliver_all(&which).await;
            if self.failure.is_some() {
                return;
            }
            tokio::select! {
                biased;
                () = network.sent.notified() => {}
                () = sleep_until(end) => break,
            }
        }
        self.settle().await;
    }
}

/// Whether a command is not worth a line in the trace, because nodes send it every second.
fn is_routine(call: &RedisCall, answer: &types::Value) -> bool {
    let is_empty = |part: &types::Value| matches!(part, types::Value::Array(parts) if parts.is_empty());
    match (call, answer) {
        (RedisCall::Script(script, _, arguments), types::Value::Array(parts))
            if script.name == "renew_lease" =>
        {
            arguments[4] == "0"
                && parts[2].as_str().is_some_and(|held| !held.is_empty())
                && parts[4..].iter().all(is_empty)
        }
        _ => matches!(
            (call.name(), answer),
            ("LPOP", types::Value::Null)
                | ("HGET", _)
                | ("claim_due", _)
                | ("SADD", types::Value::Integer(0))
                | ("session_holders", _)
        ),
    }
}
