//! Executes the steps of a schedule.

use super::{
    checker::Checker,
    client::{ModelConnection, PendingChange, State},
    delivery::Fate,
    network::InFlightCall,
    step::{FILTERS, ModelStep, ROOMS},
    world::{ModelEvent, World},
};
use crate::{ConnectionId, Join, Membership, RemoteStore, SessionStore};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// How long a node waits for a client's first request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ONE_MILLISECOND: Duration = Duration::from_millis(1);
/// The clock of Redis is not set twice within the time that a write may be late.
const MIN_CLOCK_STEP_INTERVAL: Duration = Duration::from_millis(2500);

fn is_lease_renewal(world: &World, message: &InFlightCall) -> bool {
    matches!(message.call.name(), "renew_lease" | "LPOP") && world.is_reachable(message)
}

pub(super) fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room")
}

impl World {
    /// Executes a step. Returns whether it had an effect.
    pub(super) async fn step(&mut self, step: ModelStep) -> bool {
        self.trace(|| format!("{step:?}"));
        let done = self.take_step(step).await;
        self.settle().await;
        done
    }

    async fn take_step(&mut self, step: ModelStep) -> bool {
        match step {
            ModelStep::Connect { client, node, replaces, unread } => {
                self.open(client.into(), node.into(), replaces, unread).await
            }
            ModelStep::ReadRequest(nth) => self
                .nth_connection(nth, |_, connection| connection.state == State::Waiting)
                .is_some_and(|at| self.read(at)),
            ModelStep::Join { client, room, filter } => {
                let (room, filter) = (ROOMS[room as usize], FILTERS[filter as usize].map(Arc::from));
                self.change(client.into(), room, Some(filter))
            }
            ModelStep::Leave { client, room } => self.change(client.into(), ROOMS[room as usize], None),
            ModelStep::Publish { room } => {
                let room = ROOMS[room as usize];
                let position = self.position(room);
                self.published.insert(room, position.offset + 1).is_none_or(|_| true)
            }
            ModelStep::Ack { client, room } => self.acknowledge(client.into(), ROOMS[room as usize], false),
            ModelStep::Advance { client, room } => {
                self.acknowledge(client.into(), ROOMS[room as usize], true)
            }
            ModelStep::Pong { client } => {
                let at = self.clients[client as usize].current.filter(|at| self.connections[*at].probed);
                at.is_some_and(|at| self.confirm_alive(at))
            }
            ModelStep::Disconnect { client } => match self.clients[client as usize].current {
                Some(at) => {
                    self.close(at, false).await;
                    true
                }
                None => false,
            },
            ModelStep::Vanish { client } => self.clients[client as usize].current.take().is_some(),
            ModelStep::NoticeGone(nth) => {
                let is_gone = |world: &World, at: usize, connection: &ModelConnection| {
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
            ModelStep::EndSession { client } => match self.opened(client.into()) {
                Some(at) => {
                    self.close(at, true).await;
                    true
                }
                None => false,
            },
            ModelStep::Deliver(nth) => self.arrive(nth, true, Fate::Answered),
            ModelStep::LoseAnswer(nth) => self.arrive(nth, true, Fate::AnswerLost),
            ModelStep::GiveUp(nth) => self.arrive(nth, true, Fate::GivenUp),
            ModelStep::DeliverLate(nth) => self.arrive(nth, false, Fate::Answered),
            ModelStep::DeliverAll => self.deliver_all(Self::is_reachable).await,
            ModelStep::Run(millis) => {
                self.advance_time(Duration::from_millis(millis.into()), Self::is_reachable).await;
                true
            }
            ModelStep::RunLeasesOnly(millis) => {
                self.advance_time(Duration::from_millis(millis.into()), is_lease_renewal).await;
                true
            }
            ModelStep::Kill { node } => self.kill(node.into()),
            ModelStep::Start { node } => {
                let is_down = self.nodes[node as usize].is_none();
                if is_down {
                    self.start(node.into()).await;
                }
                is_down
            }
            ModelStep::Isolate { node } => self.isolate(node.into(), true),
            ModelStep::Heal { node } => self.isolate(node.into(), false),
            ModelStep::NewEpoch { room } => {
                self.renew(ROOMS[room as usize]);
                true
            }
            ModelStep::Flush => {
                self.engine.server.borrow_mut().flush();
                self.lost_data();
                true
            }
            ModelStep::Save => {
                self.saved = Some(self.engine.server.borrow().clone());
                true
            }
            ModelStep::Restore => {
                let Some(saved) = self.saved.clone() else { return false };
                self.engine.server.borrow_mut().restore(&saved);
                self.lost_data();
                // Nodes notice that Redis is another process.
                for node in self.nodes.iter().flatten() {
                    self.leased(node.process).context.server_replaced.store(true, Ordering::Relaxed);
                }
                true
            }
            ModelStep::SetClock(seconds) => {
                if let Some(before) = self.checker.set {
                    self.advance_time(
                        MIN_CLOCK_STEP_INTERVAL.saturating_sub(before.elapsed()),
                        is_lease_renewal,
                    )
                    .await;
                }
                self.engine.server.borrow_mut().set_clock(seconds);
                self.checker.set = Some(Instant::now());
                true
            }
        }
    }

    fn lost_data(&mut self) {
        Checker::lost_data(&mut self.checker);
        for client in &mut self.clients {
            client.is_uncertain = true;
            client.acknowledged.clear();
        }
    }

    fn nth_connection(&self, nth: u8, which: impl Fn(usize, &ModelConnection) -> bool) -> Option<usize> {
        let mut found = self.connections.iter().enumerate().filter(|(at, connection)| which(*at, connection));
        found.nth(nth.into()).map(|(at, _)| at)
    }

    /// The connection that a client uses, if it has a session.
    fn opened(&self, client: usize) -> Option<usize> {
        self.clients[client].current.filter(|at| self.connections[*at].state == State::Open)
    }

    async fn open(&mut self, client: usize, node: usize, replaces: bool, unread: bool) -> bool {
        let Some(node) = &self.nodes[node] else { return false };
        let process = node.process;
        if let Some(before) = self.clients[client].current.take()
            && replaces
        {
            self.close(before, false).await;
        }
        // So that no client connects at exactly the moment of another event.
        self.advance_time(ONE_MILLISECOND, |_, _| false).await;
        let at = self.connections.len();
        let id = ConnectionId::parse(&format!("c_{:016x}", at + 1)).expect("an id");
        self.connections.push(ModelConnection {
            id,
            client,
            process,
            requested_at: Instant::now(),
            token: self.clients[client].token,
            state: State::Waiting,
            connecting: None,
            change: None,
            told: Default::default(),
            probed: false,
            is_answered: false,
        });
        self.clients[client].current = Some(at);
        self.advance_time(ONE_MILLISECOND, |_, _| false).await;
        if !unread {
            self.read(at);
        }
        true
    }

    pub(super) fn read(&mut self, at: usize) -> bool {
        let connection = &self.connections[at];
        let (id, requested_at, principal) =
            (connection.id, connection.requested_at, self.clients[connection.client].principal.clone());
        if requested_at.elapsed() > CONNECT_TIMEOUT {
            self.connections[at].state = State::Closed;
            let client = &mut self.clients[self.connections[at].client];
            client.current = client.current.filter(|current| *current != at);
            return true;
        }
        let (store, events, network) =
            (self.stores[connection.process].clone(), self.events.clone(), self.network.clone());
        let token = connection.token;
        let position = self.position(ROOMS[0]);
        let task = tokio::spawn(async move {
            let event = match token {
                Some(token) => {
                    ModelEvent::Resumed(at, store.resume(token, &principal, id, requested_at, None).await)
                }
                None => {
                    let membership = Membership { filter: None, position };
                    let join = Join { room: room(ROOMS[0]), membership, anew: true };
                    ModelEvent::Created(at, store.create(&principal, id, vec![join]).await)
                }
            };
            events.push(event);
            network.sent.notify_one();
        });
        let connection = &mut self.connections[at];
        (connection.state, connection.connecting) = (State::Opening, Some(task.abort_handle()));
        true
    }

    /// Asks to join a room with a filter, or to leave it.
    fn change(&mut self, client: usize, name: &'static str, seat: Option<Option<Arc<str>>>) -> bool {
        let Some(at) = self.opened(client).filter(|at| self.connections[*at].change.is_none()) else {
            return false;
        };
        let position = self.position(name);
        let connection = &mut self.connections[at];
        let (store, handle) = (self.stores[connection.process].clone(), connection.session_handle());
        let (events, network) = (self.events.clone(), self.network.clone());
        let (anew, filter) = (!connection.told.contains_key(name), seat.clone());
        let client = &mut self.clients[client];
        client.possible.entry(name).or_default().insert(seat.clone());
        if filter.is_none() || anew {
            client.acknowledged.remove(name);
            client.record_position(name, &position);
        }
        let task = tokio::spawn(async move {
            let done = match filter {
                Some(filter) => {
                    let membership = Membership { filter, position };
                    store.join(handle, vec![Join { room: room(name), membership, anew }]).await
                }
                None => store.leave(handle, vec![room(name)]).await,
            };
            events.push(ModelEvent::Changed(at, done));
            network.sent.notify_one();
        });
        connection.change = Some(PendingChange { task: task.abort_handle(), room: name, seat });
        true
    }

    /// Acknowledges everything that was published, or only tells the node that the client knows the room's
    /// position.
    fn acknowledge(&mut self, client: usize, name: &'static str, advances: bool) -> bool {
        let at = self.opened(client).filter(|at| self.connections[*at].told.contains_key(name));
        let Some(at) = at.filter(|at| self.connections[*at].change.is_none()) else { return false };
        let position = self.position(name);
        let connection = &self.connections[at];
        let (store, process) = (self.stores[connection.process].clone(), connection.process);
        self.clients[client].record_position(name, &position);
        match advances {
            true => store.advance(connection.session_handle(), &room(name), &position),
            false => {
                store.acknowledge(connection.session_handle(), &room(name), &position);
                self.clients[client].acknowledged.insert(name, (position, process));
            }
        }
        true
    }

    /// The client answers a ping. If it has no session yet, its answer stays unread.
    pub(super) fn confirm_alive(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let is_open = connection.state == State::Open;
        if is_open && std::mem::take(&mut connection.probed) {
            self.stores[connection.process].confirm_alive(connection.session_handle());
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
