//! What happens after a schedule: nodes reach Redis again, they notice clients that are gone, and everything
//! gets time to settle.

use super::{client::State, world::World};
use std::time::Duration;

/// How far time advances between two checks.
const QUIESCENCE_STEP: Duration = Duration::from_secs(4);
/// After how many steps the state must be right: enough for a lease and a session to expire, an interrupted
/// cleanup to be repeated, and the session audit to compare all sessions.
const MAX_QUIESCENCE_STEPS: usize = 32;

impl World {
    /// Lets everything settle, and fails if the state is not right then.
    pub(super) async fn quiesce(&mut self) {
        self.trace(|| "quiesce".to_owned());
        if self.nodes.iter().all(Option::is_none) {
            self.start(0).await;
        }
        self.nodes.iter_mut().flatten().for_each(|node| node.is_isolated = false);
        {
            let mut queue = self.network.calls();
            let messages = std::mem::take(&mut queue.messages);
            queue.messages = messages.into_iter().filter(|message| queue.is_awaited(message)).collect();
        }
        self.answers_probes = true;
        for at in 0..self.connections.len() {
            let connection = &self.connections[at];
            let is_current = self.clients[connection.client].current == Some(at);
            match connection.state {
                State::Waiting if is_current => drop(self.read(at)),
                State::Open if is_current && connection.probed => {
                    self.confirm_alive(at);
                }
                State::Closed => {}
                _ if is_current => {}
                _ => self.close(at, false).await,
            }
        }
        let mut last = Ok(());
        for _ in 0..MAX_QUIESCENCE_STEPS {
            self.advance_time(QUIESCENCE_STEP, Self::is_reachable).await;
            if self.failure.is_some() {
                return;
            }
            let was = std::mem::replace(&mut last, self.check_quiescent());
            // It was right, and it stayed right.
            if was.is_ok() && last.is_ok() {
                return;
            }
        }
        if let Err(wrong) = last {
            self.fail(format!("after everything had settled: {wrong}"));
        }
    }

    /// All clients leave. In the end, Redis must have no session and no member.
    pub(super) async fn end_all_sessions(&mut self) {
        for client in 0..self.clients.len() {
            if let Some(at) = self.clients[client].current {
                self.close(at, false).await;
            }
        }
        self.advance_time(super::world::SESSION_TTL, Self::is_reachable).await;
        self.quiesce().await;
        let mut server = self.engine.server.borrow_mut();
        let left: Vec<_> =
            server.values().map(|(key, _)| key.to_owned()).filter(|key| is_of_sessions(key)).collect();
        drop(server);
        if !self.checker.lost_data && !left.is_empty() {
            self.fail(format!("left after all clients had gone: {left:?}"));
        }
    }
}

fn is_of_sessions(key: &str) -> bool {
    [":members", ":acks", ":ends"].iter().any(|end| key.ends_with(end)) || key.contains(":session:")
}
