//! What becomes of commands on their way to Redis, and of what it answers.

use super::{
    client::{Connection, State},
    watch::Known,
    wire::{Ask, Message},
    world::World,
};
use crate::{ConnectionId, Unavailable};
use fred::types;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What becomes of a command.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Answered,
    Unanswered,
    /// The node gives up; it may be carried out later.
    Cut,
}

impl World {
    pub(super) fn find(&self, which: impl Fn(&Message) -> bool) -> Option<usize> {
        let mail = self.network.mail();
        mail.messages.iter().position(|message| mail.is_awaited(message) && which(message))
    }

    /// The nth command that is awaited, or given up.
    pub(super) fn nth(&self, nth: usize, is_awaited: bool) -> Option<usize> {
        let mail = self.network.mail();
        let mut found = mail.messages.iter().enumerate();
        let mut of_these = found.by_ref().filter(|(_, message)| mail.is_awaited(message) == is_awaited);
        of_these.nth(nth).map(|(at, _)| at)
    }

    pub(super) fn deliver(&mut self, at: usize, fate: Fate) {
        if fate == Fate::Cut {
            let mut mail = self.network.mail();
            let (answer, _) = tokio::sync::oneshot::channel();
            let waits = std::mem::replace(&mut mail.messages[at].answer, answer);
            let name = mail.messages[at].ask.name();
            drop(mail);
            waits.send(Err(Unavailable("cut off".to_owned()))).ok();
            self.tell(|| format!("  cut off: {name}"));
            return;
        }
        let Message { process, ask, sent, answer } = self.network.mail().messages.remove(at);
        if let Ask::Command("SADD", arguments) = &ask
            && answer.is_closed()
        {
            self.orphans.extend(arguments[1..].iter().cloned());
        }
        let (value, wrong) = match self.carry_out(&ask, sent) {
            Ok(value) => (value, None),
            Err((value, wrong)) => (value, Some(wrong)),
        };
        let is_usual = is_usual(&ask, &value);
        self.tell(|| {
            if is_usual {
                return String::new();
            }
            let what = match &ask {
                Ask::Script(script, keys, arguments) => format!("{} {} {arguments:?}", script.name, keys[0]),
                Ask::Command(name, arguments) => format!("{name} {arguments:?}"),
            };
            let lost = if fate == Fate::Answered && !answer.is_closed() { "" } else { ", to nobody" };
            format!("  {process}: {what} -> {value:?}{lost}")
        });
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
        self.let_go(&ask, &value);
        let answered = match fate {
            Fate::Answered => Ok(value),
            _ => Err(Unavailable("cut off".to_owned())),
        };
        answer.send(answered).ok();
    }

    /// A session that its node let go is as its client knows it, where everything was answered.
    fn let_go(&mut self, ask: &Ask, answer: &types::Value) {
        let Ask::Script(script, _, arguments) = ask else { return };
        let said = |parts: &[types::Value]| parts.first()?.as_string();
        let is_let_go = matches!(answer, types::Value::Array(parts) if said(parts).as_deref() == Some("ok"));
        if script.name != "letgo" || !arguments[1].is_empty() || !is_let_go || self.watch.lost_data {
            return;
        }
        let id = ConnectionId::parse(&arguments[0]);
        let connection = self.connections.iter().find(|connection| Some(connection.id) == id);
        if let Some(Connection { told, client, is_answered: true, token, .. }) = connection
            && self.clients[*client].token == *token
        {
            self.clients[*client].knows(told);
        }
    }

    pub(super) fn carry_out(
        &mut self,
        ask: &Ask,
        sent: Instant,
    ) -> Result<types::Value, (types::Value, String)> {
        let (connections, clients) = (&self.connections, &self.clients);
        let known = |text: &str| {
            let id = ConnectionId::parse(text)?;
            let at = connections.iter().position(|connection| connection.id == id)?;
            let connection = &connections[at];
            let lives = connection.state == State::Open && clients[connection.client].current == Some(at);
            Some(Known { asked: connection.asked, lives })
        };
        self.watch.carry_out(&self.engine, ask, sent, known)
    }

    /// Everything of these that is on its way arrives, and what follows from it.
    pub(super) async fn flow(&mut self, which: impl Fn(&Self, &Message) -> bool) -> bool {
        let mut any = false;
        for _ in 0..400 {
            self.settle().await;
            let Some(at) = self.find(|message| which(self, message)) else { return any };
            any = true;
            self.deliver(at, Fate::Answered);
        }
        self.fail("it does not come to rest".to_owned());
        any
    }

    /// Nothing keeps a command from Redis.
    pub(super) fn comes_through(&self, message: &Message) -> bool {
        self.node(message.process).is_some_and(|node| !node.is_isolated)
    }

    /// Time goes by, and of what is sent these arrive at once.
    pub(super) async fn pass(&mut self, time: Duration, which: impl Fn(&Self, &Message) -> bool) {
        let end = Instant::now() + time;
        let network = self.network.clone();
        loop {
            self.flow(&which).await;
            if self.wrong.is_some() {
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

/// What is so each second tells nothing.
fn is_usual(ask: &Ask, answer: &types::Value) -> bool {
    let is_empty = |part: &types::Value| matches!(part, types::Value::Array(parts) if parts.is_empty());
    match (ask, answer) {
        (Ask::Script(script, _, arguments), types::Value::Array(parts)) if script.name == "tick" => {
            arguments[4] == "0"
                && parts[2].as_str().is_some_and(|held| !held.is_empty())
                && parts[4..].iter().all(is_empty)
        }
        _ => matches!(
            (ask.name(), answer),
            ("LPOP", types::Value::Null)
                | ("HGET", _)
                | ("due", _)
                | ("SADD", types::Value::Integer(0))
                | ("holders", _)
        ),
    }
}
