//! After a schedule: nodes reach Redis again, clients that are gone are noticed, and the store is given time to come to rest.

use super::{client::State, world::World};
use std::time::Duration;

/// At a time.
const ROUND: Duration = Duration::from_secs(4);
/// Until when it must be right: a node's lease, what was begun on what it left, a session's time, and a round of the patrol.
const ROUNDS: usize = 32;

impl World {
    /// What is not right in the end.
    pub(super) async fn calm_down(&mut self) {
        self.tell(|| "calm".to_owned());
        if self.nodes.iter().all(Option::is_none) {
            self.start(0).await;
        }
        self.nodes.iter_mut().flatten().for_each(|node| node.is_isolated = false);
        {
            let mut mail = self.network.mail();
            let messages = std::mem::take(&mut mail.messages);
            mail.messages = messages.into_iter().filter(|message| mail.is_awaited(message)).collect();
        }
        self.all_answer = true;
        for at in 0..self.connections.len() {
            let connection = &self.connections[at];
            let is_current = self.clients[connection.client].current == Some(at);
            match connection.state {
                State::Waiting if is_current => drop(self.read(at)),
                State::Open if is_current && connection.probed => {
                    self.vouch(at);
                }
                State::Closed => {}
                _ if is_current => {}
                _ => self.close(at, false).await,
            }
        }
        let mut last = Ok(());
        for _ in 0..ROUNDS {
            self.pass(ROUND, Self::comes_through).await;
            if self.wrong.is_some() {
                return;
            }
            let was = std::mem::replace(&mut last, self.is_calm());
            // It was right, and it stays so.
            if was.is_ok() && last.is_ok() {
                return;
            }
        }
        if let Err(wrong) = last {
            self.fail(format!("in the calm: {wrong}"));
        }
    }

    /// Everybody leaves, and in the end nothing is left.
    pub(super) async fn empty(&mut self) {
        for client in 0..self.clients.len() {
            if let Some(at) = self.clients[client].current {
                self.close(at, false).await;
            }
        }
        self.pass(super::world::TTL, Self::comes_through).await;
        self.calm_down().await;
        let mut server = self.engine.server.borrow_mut();
        let left: Vec<_> =
            server.kept().map(|(key, _)| key.to_owned()).filter(|key| is_of_sessions(key)).collect();
        drop(server);
        if !self.watch.lost_data && !left.is_empty() {
            self.fail(format!("after everybody had left: {left:?}"));
        }
    }
}

fn is_of_sessions(key: &str) -> bool {
    [":members", ":acks", ":ends"].iter().any(|end| key.ends_with(end)) || key.contains(":session:")
}
