//! Scenarios: a client with a session, and what happens to it command by command. In the end, everything must
//! settle in a right state.

use super::{
    client::State, delivery::Fate, network::InFlightCall, script_engine::ScriptEngine, step::ModelStep::*,
    world::World,
};
use std::rc::Rc;

/// Runs a scenario. The client is on the first node, with a session in room `a`. Panics if an invariant is
/// violated.
pub(super) fn scenario(happens: impl AsyncFnOnce(&mut World)) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).event_interval(1_000_000);
    runtime.build().expect("a runtime").block_on(async {
        let engine = Rc::new(ScriptEngine::new(&[]));
        let mut world = World::new(&engine, false, true).await;
        world.connect(0).await;
        happens(&mut world).await;
        world.quiesce().await;
        if let Some(wrong) = &world.failure {
            panic!("{wrong}\n{}", world.trace_lines.take().unwrap_or_default().join("\n"));
        }
    });
}

impl World {
    /// The client connects to a node and gets its session. Nobody notices that it left the connection before.
    pub(super) async fn connect(&mut self, node: u8) {
        self.step(Connect { client: 0, node, replaces: false, unread: false }).await;
        self.step(DeliverAll).await;
    }

    /// Delivers the first command with this name that a node waits for.
    pub(super) async fn deliver_one(&mut self, name: &str, fate: Fate) {
        let at = self.find(|message| message.call.name() == name);
        self.deliver(
            at.unwrap_or_else(|| panic!("no {name} is in flight, only {:?}", self.in_flight())),
            fate,
        );
        self.settle().await;
    }

    /// Executes a command with this name that a node has given up.
    pub(super) async fn deliver_late(&mut self, name: &str) {
        let at = {
            let queue = self.network.calls();
            let is_late = |message: &InFlightCall| !queue.is_awaited(message) && message.call.name() == name;
            queue.messages.iter().position(is_late)
        };
        self.deliver(at.unwrap_or_else(|| panic!("no {name} was given up")), Fate::Answered);
        self.settle().await;
    }

    /// Delivers all commands of nodes that reach Redis, except these.
    pub(super) async fn deliver_all_but(&mut self, names: &[&str]) {
        self.deliver_all(|world, message| {
            world.is_reachable(message) && !names.contains(&message.call.name())
        })
        .await;
    }

    pub(super) fn in_flight(&self) -> Vec<&'static str> {
        self.network.calls().messages.iter().map(|message| message.call.name()).collect()
    }

    /// The process that the client is connected to, and the rooms that it is in.
    pub(super) fn client_place(&self) -> Option<(usize, Vec<&'static str>)> {
        let connection = &self.connections[self.clients[0].current?];
        let rooms = connection.told.keys().copied().collect();
        (connection.state == State::Open).then_some((connection.process, rooms))
    }

    pub(super) fn member_count(&self, room: &str) -> usize {
        self.engine
            .server
            .borrow()
            .sorted(&format!("m:{{{room}}}:members"))
            .map_or(0, |members| members.len())
    }

    pub(super) fn session_count(&self) -> usize {
        self.engine.server.borrow_mut().values().filter(|(key, _)| key.contains(":session:")).count()
    }
}
