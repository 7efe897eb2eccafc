//! How a story is told: what happens to a client with a session, command by command, and that all is right in the calm after it.

use super::{client::State, delivery::Fate, engine::Engine, step::Step::*, wire::Message, world::World};
use std::rc::Rc;

/// A client on the first node, with a session in room a; then what happens; then the calm, in which all must be right.
pub(super) fn story(happens: impl AsyncFnOnce(&mut World)) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).event_interval(1_000_000);
    runtime.build().expect("a runtime").block_on(async {
        let engine = Rc::new(Engine::new(&[]));
        let mut world = World::new(&engine, false, true).await;
        world.connect(0).await;
        happens(&mut world).await;
        world.calm_down().await;
        if let Some(wrong) = &world.wrong {
            panic!("{wrong}\n{}", world.story.take().unwrap_or_default().join("\n"));
        }
    });
}

impl World {
    /// The client opens a connection to a node and is let in; nobody notices that it left the one before.
    pub(super) async fn connect(&mut self, node: u8) {
        self.step(Open { client: 0, node, clean: false, waits: false }).await;
        self.step(Flow).await;
    }

    /// The nth command with a name that a node waits for.
    pub(super) async fn one(&mut self, name: &str, fate: Fate) {
        let at = self.find(|message| message.ask.name() == name);
        self.deliver(
            at.unwrap_or_else(|| panic!("no {name} is on its way: {:?}", self.on_their_way())),
            fate,
        );
        self.settle().await;
    }

    /// One that was given up is carried out after all.
    pub(super) async fn late(&mut self, name: &str) {
        let at = {
            let mail = self.network.mail();
            let is_late = |message: &Message| !mail.is_awaited(message) && message.ask.name() == name;
            mail.messages.iter().position(is_late)
        };
        self.deliver(at.unwrap_or_else(|| panic!("no {name} was given up")), Fate::Answered);
        self.settle().await;
    }

    /// What comes through arrives, but for these.
    pub(super) async fn all_but(&mut self, names: &[&str]) {
        self.flow(|world, message| world.comes_through(message) && !names.contains(&message.ask.name()))
            .await;
    }

    pub(super) fn on_their_way(&self) -> Vec<&'static str> {
        self.network.mail().messages.iter().map(|message| message.ask.name()).collect()
    }

    /// On which process the client is, and in which rooms.
    pub(super) fn is_on(&self) -> Option<(usize, Vec<&'static str>)> {
        let connection = &self.connections[self.clients[0].current?];
        let rooms = connection.told.keys().copied().collect();
        (connection.state == State::Open).then_some((connection.process, rooms))
    }

    pub(super) fn members(&self, room: &str) -> usize {
        self.engine
            .server
            .borrow()
            .sorted(&format!("m:{{{room}}}:members"))
            .map_or(0, |members| members.len())
    }

    pub(super) fn sessions(&self) -> usize {
        self.engine.server.borrow_mut().kept().filter(|(key, _)| key.contains(":session:")).count()
    }
}
