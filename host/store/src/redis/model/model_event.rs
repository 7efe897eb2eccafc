//! Gives clients the answers and events of nodes, and compares them with what the clients know.

use super::{
    client::State,
    step::ROOMS,
    world::{ModelEvent, World},
};
use crate::{ConnectionId, Event, Membership, ResumeResult, ResumedSession, SessionToken, Unavailable};
use switchyard_protocol::{Position, room::RoomName};

impl World {
    pub(super) async fn handle_event(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Event(process, Event::Probe(id)) => {
                let Some(at) = self.find_connection(process, id) else { return };
                self.connections[at].probed = true;
                self.trace(|| format!("  {at}: probed"));
                if self.answers_probes && self.clients[self.connections[at].client].current == Some(at) {
                    self.confirm_alive(at);
                }
            }
            ModelEvent::Event(process, Event::TakenOver(id)) => {
                let Some(at) = self.find_connection(process, id) else { return };
                self.taken_over(at).await;
            }
            ModelEvent::Event(..) => {}
            ModelEvent::Created(at, created) => self.created(at, created).await,
            ModelEvent::Resumed(at, Ok(ResumeResult::Resumed(resumed))) => self.resumed(at, resumed).await,
            ModelEvent::Resumed(at, Ok(ResumeResult::NotFound(_))) => {
                let client = self.connections[at].client;
                if self.clients[client].current == Some(at) {
                    self.clients[client].forget();
                }
                self.close(at, false).await;
            }
            ModelEvent::Resumed(at, _) => self.close(at, false).await,
            ModelEvent::Changed(at, done) => {
                let Some(change) = self.connections[at].change.take() else { return };
                self.trace(|| format!("  {at}: {} to be {:?}: {done:?}", change.room, change.seat));
                if done.is_err() {
                    return;
                }
                let connection = &mut self.connections[at];
                match change.seat.clone() {
                    Some(filter) => drop(connection.told.insert(change.room, filter)),
                    None => drop(connection.told.remove(change.room)),
                }
                let client = &mut self.clients[connection.client];
                if client.current == Some(at) {
                    client.possible.insert(change.room, [change.seat].into());
                }
            }
        }
    }

    /// A connection that is not closed, of a process that runs.
    fn find_connection(&self, process: usize, id: ConnectionId) -> Option<usize> {
        self.node(process)?;
        self.connections
            .iter()
            .position(|connection| connection.id == id && connection.state != State::Closed)
    }

    async fn created(&mut self, at: usize, created: Result<SessionToken, Unavailable>) {
        if self.connections[at].state != State::Opening {
            return;
        }
        let Ok(token) = created else { return self.close(at, false).await };
        let connection = &mut self.connections[at];
        (connection.state, connection.token) = (State::Open, Some(token));
        connection.told = [(ROOMS[0], None)].into();
        let told = connection.told.clone();
        let client = &mut self.clients[connection.client];
        if client.current == Some(at) {
            client.forget();
            client.token = Some(token);
            client.set_known(&told);
            let position = self.position(ROOMS[0]);
            self.clients[self.connections[at].client].record_position(ROOMS[0], &position);
        }
        if self.answers_probes {
            self.confirm_alive(at);
        }
    }

    async fn resumed(&mut self, at: usize, resumed: ResumedSession) {
        if self.connections[at].state != State::Opening {
            return;
        }
        self.trace(|| format!("  {at}: resumed {resumed:?}"));
        let before = resumed.previous.and_then(|id| self.find_connection(self.connections[at].process, id));
        // Acknowledgements of an epoch that has ended do not count.
        let epochs = ROOMS.map(|room| (room, self.position(room).epoch));
        let connection = &mut self.connections[at];
        connection.state = State::Open;
        let rooms = resumed.rooms.iter();
        let name = |room: &RoomName| ROOMS.into_iter().find(|name| **room == **name).expect("one of these");
        connection.told = rooms.clone().map(|(room, is)| (name(room), is.filter.clone())).collect();
        let (told, process) = (connection.told.clone(), connection.process);
        let client = &mut self.clients[connection.client];
        if client.current == Some(at) {
            let mut wrong = client.compare(&told).err();
            for (room, Membership { position, .. }) in rooms {
                let name = name(room);
                let reached = client.furthest_position(name, &position.epoch);
                if reached.is_some_and(|reached| position.offset > reached) {
                    wrong = Some(format!(
                        "{position:?} of {name} is beyond {reached:?}, up to which the client has everything"
                    ));
                }
                if let Some((Position { epoch, offset }, to)) = client.acknowledged.get(name)
                    && *to == process
                    && *epoch == position.epoch
                    && epochs.contains(&(name, epoch.clone()))
                    && position.offset < *offset
                {
                    wrong = Some(format!("{position:?} of {name}, and {offset} was acknowledged"));
                }
            }
            client.set_known(&told);
            if let Some(wrong) = wrong {
                self.fail(wrong);
            }
        }
        if let Some(before) = before.filter(|before| *before != at) {
            self.taken_over(before).await;
        }
        if self.answers_probes {
            self.confirm_alive(at);
        }
    }

    async fn taken_over(&mut self, at: usize) {
        let connection = &self.connections[at];
        let is_only = self.clients[connection.client].current == Some(at);
        if is_only && self.checker.set.is_none() && !self.checker.lost_data {
            self.fail("closed with 4409, but the client is on no other connection".to_owned());
        }
        self.trace(|| format!("  {at}: 4409"));
        self.close(at, false).await;
    }
}
