//! Letting a client in: a new session, or the one it wants back with all its rooms. One whose answer does not come about leaves
//! its session as it was.

use super::{
    Conversation,
    joining::{Asked, Told},
};
use crate::{
    hub::{self, Granted},
    session::Heartbeat,
};
use futures_util::future::join_all;
use switchyard_protocol::{
    Code, Id, Refusal, reply,
    room::{Kind, RoomName},
};
use switchyard_store::{Join, Membership, Resumed, key::Scope};

impl Conversation {
    /// A new session.
    pub(super) async fn begin(&mut self, id: Option<Id<'_>>) -> Result<(), Refusal> {
        if !self.services.hub.may_grow(&self.connection.share) {
            return Err(hub::full("sessions"));
        }
        let place = self.connection.outbox.reserve();
        let rooms = [RoomName::broadcast(), self.active.inbox.clone()];
        let asked = rooms.map(|room| Asked { room, filter: None, since: None });
        let answers = asked.map(|asked| (self.ask(&asked, false), asked));
        let (mut joins, mut replays) = (vec![], vec![]);
        for (answer, asked) in answers {
            let Granted::Joined(joined) = hub::answered(answer).await? else { continue };
            let seated = self.seated(asked, joined).await?;
            let membership = Membership { filter: None, position: seated.position().clone() };
            joins.push(Join { room: seated.room().clone(), membership, anew: true });
            self.take_seat(seated, &mut replays).await;
        }
        let store = &self.services.hub.store;
        let created = store.create_session(&self.key.principal, self.connection.id, joins).await;
        self.connection.session.set(created.map_err(hub::unavailable)?).expect("set once");
        let frame = self.connected(id, false, vec![]);
        self.connection.outbox.fill(place, frame.into());
        Ok(())
    }

    /// A session that this connection holds since a moment ago.
    pub(super) async fn resume(&mut self, id: Option<Id<'_>>, resumed: Resumed) -> Result<(), Refusal> {
        let hub = self.services.hub.clone();
        let place = self.connection.outbox.reserve();
        let asked = resumed.rooms.into_iter().map(|(room, Membership { filter, position })| {
            let asked = Asked { room, filter, since: Some(position) };
            // The key may have lost the scope since the room was joined.
            let may = match asked.room.kind() {
                Kind::Ordinary => self.key.require(Scope::Subscribe, "subscribe"),
                Kind::Broadcast | Kind::Inbox => Ok(()),
            };
            (may.map(|()| self.ask(&asked, false)), asked)
        });
        let asked: Vec<_> = asked.collect();
        let this = &*self;
        let seated = join_all(asked.into_iter().map(async |(answer, asked)| {
            let granted = match answer {
                Ok(answer) => hub::answered(answer).await,
                Err(refusal) => Err(refusal),
            };
            let seated = match granted {
                Ok(Granted::Joined(joined)) => this.seated(asked.clone(), joined).await,
                Ok(Granted::Offered(_)) => Err(Refusal::new(Code::Internal, "nothing was offered")),
                Err(refusal) => Err(refusal),
            };
            (asked, seated)
        }));
        let (mut results, mut replays, mut told) = (vec![], vec![], Vec::<Told>::new());
        let (mut joins, mut leaves) = (vec![], vec![]);
        for (asked, seated) in seated.await {
            match seated {
                Ok(seated) => {
                    // A plugin may know the room by another name by now.
                    if *seated.room() != asked.room {
                        let position = asked.since.clone().expect("given above");
                        let membership = Membership { filter: asked.filter.clone(), position };
                        joins.push(Join { room: seated.room().clone(), membership, anew: true });
                        leaves.push(asked.room.clone());
                    }
                    told.extend(seated.told());
                    let filter = asked.filter.and_then(|filter| serde_json::from_str(&filter).ok());
                    let result = self.take_seat(seated, &mut replays).await;
                    results.push(reply::RoomResult { filter, ..result });
                }
                // What passes takes no room from a session.
                Err(refusal) if matches!(refusal.code, Code::StoreUnavailable | Code::Overloaded) => {
                    return Err(refusal);
                }
                Err(refusal) => {
                    // A plugin that failed may work again: the room stays, and the next resume tries it.
                    if !matches!(refusal.code, Code::PluginFailed | Code::Internal) {
                        leaves.push(asked.room.clone());
                    }
                    let mut result = reply::RoomResult::refused(&asked.room, None, refusal);
                    result.recovered = Some(false);
                    results.push(result);
                }
            }
        }
        let hold = self.connection.hold();
        if !joins.is_empty() {
            hub.store.join(hold, joins).await.map_err(hub::unavailable)?;
        }
        if !leaves.is_empty() {
            hub.store.leave(hold, leaves).await.map_err(hub::unavailable)?;
        }
        self.count_rooms();
        let frame = self.connected(id, true, results);
        self.connection.outbox.fill(place, frame.into());
        self.connection.told(told.iter());
        self.start(replays);
        Ok(())
    }

    fn connected(&self, id: Option<Id<'_>>, resumed: bool, rooms: Vec<reply::RoomResult>) -> String {
        let Heartbeat { interval, timeout } = self.services.config.heartbeat;
        let connected = reply::Connected {
            connection: self.connection.id.to_string(),
            session: self.connection.session().reveal(),
            resumed,
            principal: reply::Principal { id: &self.key.principal, tier: &self.key.tier },
            heartbeat: reply::Heartbeat {
                interval: interval.as_millis() as u64,
                timeout: timeout.as_millis() as u64,
            },
            limits: reply::Limits {
                rooms: self.active.rooms_limit,
                message_bytes: self.active.message_bytes(),
            },
            rooms,
        };
        reply::reply("connected", id, connected)
    }
}
