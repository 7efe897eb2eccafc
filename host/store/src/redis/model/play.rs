//! Carries out the steps of a schedule, and lets clients hear what nodes say.

use super::{
    client::{Change, Connection, State},
    delivery::Fate,
    step::{FILTERS, ROOMS, Step},
    watch::Watch,
    wire::Message,
    world::{Told, World},
};
use crate::{ConnectionId, Join, Membership, RemoteStore, SessionStore};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// In which a client has to say what it wants.
const CONNECT: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(1);
/// Redis' clock is not set twice within what a write may be late.
const APART: Duration = Duration::from_millis(2500);

fn only_lease(world: &World, message: &Message) -> bool {
    matches!(message.ask.name(), "tick" | "LPOP") && world.comes_through(message)
}

pub(super) fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room")
}

impl World {
    /// Whether anything happened.
    pub(super) async fn step(&mut self, step: Step) -> bool {
        self.tell(|| format!("{step:?}"));
        let done = self.take_step(step).await;
        self.settle().await;
        done
    }

    async fn take_step(&mut self, step: Step) -> bool {
        match step {
            Step::Open { client, node, clean, waits } => {
                self.open(client.into(), node.into(), clean, waits).await
            }
            Step::Read(nth) => self
                .nth_connection(nth, |_, connection| connection.state == State::Waiting)
                .is_some_and(|at| self.read(at)),
            Step::Join { client, room, filter } => {
                let (room, filter) = (ROOMS[room as usize], FILTERS[filter as usize].map(Arc::from));
                self.change(client.into(), room, Some(filter))
            }
            Step::Leave { client, room } => self.change(client.into(), ROOMS[room as usize], None),
            Step::Publish { room } => {
                let room = ROOMS[room as usize];
                let position = self.position(room);
                self.published.insert(room, position.offset + 1).is_none_or(|_| true)
            }
            Step::Ack { client, room } => self.acknowledge(client.into(), ROOMS[room as usize], false),
            Step::Advance { client, room } => self.acknowledge(client.into(), ROOMS[room as usize], true),
            Step::Pong { client } => {
                let at = self.clients[client as usize].current.filter(|at| self.connections[*at].probed);
                at.is_some_and(|at| self.vouch(at))
            }
            Step::Hang { client } => match self.clients[client as usize].current {
                Some(at) => {
                    self.close(at, false).await;
                    true
                }
                None => false,
            },
            Step::Vanish { client } => self.clients[client as usize].current.take().is_some(),
            Step::Notice(nth) => {
                let is_gone = |world: &World, at: usize, connection: &Connection| {
                    connection.state != State::Closed && world.clients[connection.client].current != Some(at)
                };
                let gone: Vec<_> = (0..self.connections.len())
                    .filter(|at| is_gone(self, *at, &self.connections[*at]))
                    .collect();
                match gone.get(nth as usize) {
                    Some(at) => {
                        self.close(*at, false).await;
                        true
                    }
                    None => false,
                }
            }
            Step::End { client } => match self.opened(client.into()) {
                Some(at) => {
                    self.close(at, true).await;
                    true
                }
                None => false,
            },
            Step::Deliver(nth) => self.arrive(nth, true, Fate::Answered),
            Step::Unanswered(nth) => self.arrive(nth, true, Fate::Unanswered),
            Step::Cut(nth) => self.arrive(nth, true, Fate::Cut),
            Step::Late(nth) => self.arrive(nth, false, Fate::Answered),
            Step::Flow => self.flow(Self::comes_through).await,
            Step::Live(millis) => {
                self.pass(Duration::from_millis(millis.into()), Self::comes_through).await;
                true
            }
            Step::Pass(millis) => {
                self.pass(Duration::from_millis(millis.into()), only_lease).await;
                true
            }
            Step::Kill { node } => self.kill(node.into()),
            Step::Start { node } => {
                let is_down = self.nodes[node as usize].is_none();
                if is_down {
                    self.start(node.into()).await;
                }
                is_down
            }
            Step::Isolate { node } => self.isolate(node.into(), true),
            Step::Heal { node } => self.isolate(node.into(), false),
            Step::Renew { room } => {
                self.renew(ROOMS[room as usize]);
                true
            }
            Step::Flush => {
                self.engine.server.borrow_mut().flush();
                self.lost_data();
                true
            }
            Step::Save => {
                self.saved = Some(self.engine.server.borrow().clone());
                true
            }
            Step::Restore => {
                let Some(saved) = self.saved.clone() else { return false };
                self.engine.server.borrow_mut().restore(&saved);
                self.lost_data();
                // It is another process then, as nodes find out.
                for node in self.nodes.iter().flatten() {
                    self.leased(node.process).context.has_changed.store(true, Ordering::Relaxed);
                }
                true
            }
            Step::SetClock(seconds) => {
                if let Some(before) = self.watch.set {
                    self.pass(APART.saturating_sub(before.elapsed()), only_lease).await;
                }
                self.engine.server.borrow_mut().set_clock(seconds);
                self.watch.set = Some(Instant::now());
                true
            }
        }
    }

    fn lost_data(&mut self) {
        Watch::lost_data(&mut self.watch);
        for client in &mut self.clients {
            client.unsure = true;
            client.acknowledged.clear();
        }
    }

    fn nth_connection(&self, nth: u8, which: impl Fn(usize, &Connection) -> bool) -> Option<usize> {
        let mut found = self.connections.iter().enumerate().filter(|(at, connection)| which(*at, connection));
        found.nth(nth.into()).map(|(at, _)| at)
    }

    /// The connection that a client is on, when it has a session.
    fn opened(&self, client: usize) -> Option<usize> {
        self.clients[client].current.filter(|at| self.connections[*at].state == State::Open)
    }

    async fn open(&mut self, client: usize, node: usize, clean: bool, waits: bool) -> bool {
        let Some(node) = &self.nodes[node] else { return false };
        let process = node.process;
        if let Some(before) = self.clients[client].current.take()
            && clean
        {
            self.close(before, false).await;
        }
        // Nobody comes at the very moment at which somebody else does something.
        self.pass(MOMENT, |_, _| false).await;
        let at = self.connections.len();
        let id = ConnectionId::parse(&format!("c_{:016x}", at + 1)).expect("an id");
        self.connections.push(Connection {
            id,
            client,
            process,
            asked: Instant::now(),
            token: self.clients[client].token,
            state: State::Waiting,
            opening: None,
            change: None,
            told: Default::default(),
            probed: false,
            is_answered: false,
        });
        self.clients[client].current = Some(at);
        self.pass(MOMENT, |_, _| false).await;
        if !waits {
            self.read(at);
        }
        true
    }

    pub(super) fn read(&mut self, at: usize) -> bool {
        let connection = &self.connections[at];
        let (id, asked, principal) =
            (connection.id, connection.asked, self.clients[connection.client].principal.clone());
        if asked.elapsed() > CONNECT {
            self.connections[at].state = State::Closed;
            let client = &mut self.clients[self.connections[at].client];
            client.current = client.current.filter(|current| *current != at);
            return true;
        }
        let (store, ears, network) =
            (self.stores[connection.process].clone(), self.ears.clone(), self.network.clone());
        let token = connection.token;
        let position = self.position(ROOMS[0]);
        let task = tokio::spawn(async move {
            let told = match token {
                Some(token) => Told::Resumed(at, store.resume(token, &principal, id, asked, None).await),
                None => {
                    let membership = Membership { filter: None, position };
                    let join = Join { room: room(ROOMS[0]), membership, anew: true };
                    Told::Created(at, store.create(&principal, id, vec![join]).await)
                }
            };
            ears.push(told);
            network.sent.notify_one();
        });
        let connection = &mut self.connections[at];
        (connection.state, connection.opening) = (State::Opening, Some(task.abort_handle()));
        true
    }

    /// Asks for a room with a filter, or to leave it.
    fn change(&mut self, client: usize, name: &'static str, seat: Option<Option<Arc<str>>>) -> bool {
        let Some(at) = self.opened(client).filter(|at| self.connections[*at].change.is_none()) else {
            return false;
        };
        let position = self.position(name);
        let connection = &mut self.connections[at];
        let (store, hold) = (self.stores[connection.process].clone(), connection.hold());
        let (ears, network) = (self.ears.clone(), self.network.clone());
        let (anew, filter) = (!connection.told.contains_key(name), seat.clone());
        let client = &mut self.clients[client];
        client.may.entry(name).or_default().insert(seat.clone());
        if filter.is_none() || anew {
            client.acknowledged.remove(name);
            client.reaches(name, &position);
        }
        let task = tokio::spawn(async move {
            let done = match filter {
                Some(filter) => {
                    let membership = Membership { filter, position };
                    store.join(hold, vec![Join { room: room(name), membership, anew }]).await
                }
                None => store.leave(hold, vec![room(name)]).await,
            };
            ears.push(Told::Changed(at, done));
            network.sent.notify_one();
        });
        connection.change = Some(Change { task: task.abort_handle(), room: name, seat });
        true
    }

    /// All that was published was heard; or only its place in an epoch.
    fn acknowledge(&mut self, client: usize, name: &'static str, advances: bool) -> bool {
        let at = self.opened(client).filter(|at| self.connections[*at].told.contains_key(name));
        let Some(at) = at.filter(|at| self.connections[*at].change.is_none()) else { return false };
        let position = self.position(name);
        let connection = &self.connections[at];
        let (store, process) = (self.stores[connection.process].clone(), connection.process);
        self.clients[client].reaches(name, &position);
        match advances {
            true => store.advance(connection.hold(), &room(name), &position),
            false => {
                store.acknowledge(connection.hold(), &room(name), &position);
                self.clients[client].acknowledged.insert(name, (position, process));
            }
        }
        true
    }

    /// Its client was heard; as long as it has no session, its answer waits to be read.
    pub(super) fn vouch(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let is_open = connection.state == State::Open;
        if is_open && std::mem::take(&mut connection.probed) {
            self.stores[connection.process].vouch(connection.hold());
        }
        is_open
    }

    fn arrive(&mut self, nth: u8, is_awaited: bool, fate: Fate) -> bool {
        let found = self.nth(nth.into(), is_awaited);
        if let Some(at) = found {
            self.deliver(at, fate);
        }
        found.is_some()
    }
}
