//! What an authenticated client may do, and the rooms that it is in. Decides without I/O. `client_session.rs`
//! carries the decisions out.

use super::{
    client_session::rejected,
    pending_join::{JoinOptions, JoinState, PendingJoin, named_twice},
};
use crate::{
    hub::{RoomPolicies, Seat},
    key::Key,
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::Limits;
use switchyard_protocol::{
    Close, ErrorCode, Id, Position, Refusal, Request, reply,
    request::{self, Credentials, Publish, SubscribeOptions},
    room::{RoomKind, RoomName},
    unix_ms,
};
use switchyard_store::{grant::Verb, key::Scope};

/// This many frames that are not requests, within [`BAD_FRAME_PERIOD`], close a connection.
const MAX_BAD_FRAMES: usize = 10;
const BAD_FRAME_PERIOD: Duration = Duration::from_secs(60);

pub(super) struct SessionState {
    pub inbox: RoomName,
    /// How many rooms the client may be in, not counting `*` and the inbox.
    pub rooms_limit: u32,
    /// How many plugins allow.
    plugin_rooms_limit: Option<u32>,
    message_bytes: usize,
    rooms: HashMap<RoomName, Seat>,
    /// Canonical names, by the names that the client uses.
    aliases: HashMap<RoomName, RoomName>,
    bad: Vec<Instant>,
}

/// How to carry out a request.
pub(super) enum Decision<'a> {
    Reply(String),
    Refuse(Option<Id<'a>>, Refusal),
    Close(String, Close),
    Nothing,
    Refresh { id: Option<Id<'a>>, credentials: Credentials<'a> },
    Subscribe { id: Option<Id<'a>>, joins: Vec<PendingJoin> },
    Unsubscribe { id: Option<Id<'a>>, rooms: Vec<Result<RoomName, Box<reply::RoomResult>>> },
    Publish { id: Option<Id<'a>>, room: RoomName, message: Publish<'a> },
    Acknowledge { id: Option<Id<'a>>, acks: Vec<Acknowledged> },
    Members { id: Option<Id<'a>>, room: RoomName },
    History { id: Option<Id<'a>>, room: RoomName, since: Option<Position>, limit: usize },
}

impl Decision<'_> {
    /// Whether this may be carried out while messages are in flight. Otherwise, their requests are answered
    /// first.
    pub(super) fn overlaps(&self) -> bool {
        match self {
            Self::Publish { .. } | Self::Refuse(..) | Self::Nothing => true,
            // Without an id it is not answered.
            Self::Acknowledge { id, .. } => id.is_none(),
            _ => false,
        }
    }
}

/// The client has handled all messages of a room up to an offset.
pub(super) struct Acknowledged {
    pub room: RoomName,
    /// The epoch of the offset, if the client names it.
    pub epoch: Option<Arc<str>>,
    pub offset: u64,
}

impl SessionState {
    /// `limits` are those of the plugins that authorized the connection.
    pub(super) fn new(key: &Key, limits: &Limits, message_bytes: usize) -> Self {
        Self {
            inbox: RoomName::inbox(&key.principal),
            rooms_limit: narrow_rooms(key, limits.rooms),
            plugin_rooms_limit: limits.rooms,
            message_bytes: narrow_message_bytes(message_bytes, limits),
            rooms: HashMap::new(),
            aliases: HashMap::new(),
            bad: vec![],
        }
    }

    /// The client has another key, which may be of another tier. It leaves no room because of that.
    pub(super) fn set_key(&mut self, key: &Key) {
        self.rooms_limit = narrow_rooms(key, self.plugin_rooms_limit);
    }

    pub(super) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Counts a frame that is not a request. A connection that sends too many of them is closed.
    pub(super) fn bad_frame<'a>(
        &mut self,
        id: Option<Id<'a>>,
        refusal: Refusal,
        now: Instant,
    ) -> Decision<'a> {
        self.bad.retain(|at| now.duration_since(*at) < BAD_FRAME_PERIOD);
        self.bad.push(now);
        match self.bad.len() {
            MAX_BAD_FRAMES.. => Decision::Close(reply::error(id, &refusal), Close::BadFrames),
            _ => Decision::Refuse(id, refusal),
        }
    }

    /// Decides how to carry out a request, or why this client may not make it.
    pub(super) fn decide<'a>(
        &self,
        id: Option<Id<'a>>,
        request: Request<'a>,
        key: &Key,
        policies: &RoomPolicies,
    ) -> Result<Decision<'a>, Refusal> {
        Ok(match request {
            Request::Ping => Decision::Reply(reply::pong(id, unix_ms())),
            Request::Connect { .. } => {
                return Err(Refusal::invalid(
                    "this connection is already authenticated; open another one, or use refresh",
                ));
            }
            Request::Refresh { credentials } => Decision::Refresh { id, credentials },
            Request::Subscribe { rooms } => {
                key.require(Scope::Subscribe, "subscribe")?;
                Decision::Subscribe { id, joins: self.pending_joins(rooms) }
            }
            Request::Unsubscribe { rooms } => {
                Decision::Unsubscribe { id, rooms: rooms.iter().map(|room| self.leaving(room)).collect() }
            }
            Request::Publish(message) => {
                let room = may_publish(&message, key, self.message_bytes)?;
                Decision::Publish { id, room, message }
            }
            Request::Ack { acks } => match acks.and_then(|acks| self.acknowledged(acks)) {
                Ok(acks) => Decision::Acknowledge { id, acks },
                Err(refusal) if id.is_some() => return Err(Refusal::invalid(refusal.message)),
                Err(_) => Decision::Nothing,
            },
            Request::Members { room } => {
                let room = self.joined(&room, "see the members of")?;
                match room.kind() {
                    // Every connection is in this room, so its members are all principals.
                    RoomKind::Broadcast => key.require(Scope::Admin, "see the members of '*'")?,
                    RoomKind::Inbox | RoomKind::Ordinary => key.require_in(Verb::Subscribe, &room)?,
                }
                policies.check_members(&room, key)?;
                Decision::Members { id, room }
            }
            Request::History { room, since, limit } => {
                let room = self.joined(&room, "read the history of")?;
                key.require_in(Verb::Subscribe, &room)?;
                Decision::History { id, room, since, limit }
            }
        })
    }

    /// Each room is accepted or refused separately. Rooms beyond the limit are refused here, or deferred if the
    /// entries before them may still be refused.
    fn pending_joins(&self, rooms: Vec<request::RequestedRoom<'_>>) -> Vec<PendingJoin> {
        let (mut named, mut new, joined) = (HashSet::new(), 0, self.room_count());
        let mut options = |name: &str, options: Result<SubscribeOptions<'_>, Refusal>| {
            let room = RoomName::parse(name)?;
            let known = self.resolve(&room);
            if !named.insert(known.clone().unwrap_or_else(|| room.clone())) {
                return Err(named_twice(&room));
            }
            let SubscribeOptions { filter, since } = options?;
            if room.kind() != RoomKind::Ordinary {
                let message = match self.resolve(&room) {
                    Some(_) => format!("room '{}' is joined automatically; do not subscribe to it", &*room),
                    None => format!("room '{}' is the inbox of another principal", &*room),
                };
                return Err(Refusal::new(ErrorCode::Forbidden, message));
            }
            let limit = self.rooms_limit as usize;
            if known.is_none() && joined >= limit {
                return Err(self.room_limit_reached());
            }
            let is_deferred = known.is_none() && joined + new >= limit;
            new += usize::from(known.is_none());
            Ok((JoinOptions { room, filter: filter.map(Into::into), since }, is_deferred))
        };
        let mut pending = |wanted: request::RequestedRoom<'_>| match options(&wanted.room, wanted.options) {
            Ok((options, true)) => PendingJoin::deferred(&wanted.room, options),
            options => PendingJoin::new(&wanted.room, options.map(|(options, _)| options)),
        };
        rooms.into_iter().map(&mut pending).collect()
    }

    /// Requests deferred joins, as many as there is room for after the joins that were granted. Without any
    /// room, refuses them. Returns whether there are new requests.
    pub(super) fn request_deferred(&self, joins: &mut [PendingJoin]) -> bool {
        let granted = joins.iter().filter(|join| join.is_granted()).filter_map(PendingJoin::room);
        let new: HashSet<&RoomName> = granted.filter(|room| !self.rooms.contains_key(*room)).collect();
        let mut free = (self.rooms_limit as usize).saturating_sub(self.room_count() + new.len());
        let is_full = free == 0;
        let mut has_requests = false;
        for join in joins {
            let state =
                std::mem::replace(&mut join.state, JoinState::Refused(self.room_limit_reached(), None));
            join.state = match state {
                JoinState::Deferred(_) if is_full => continue,
                JoinState::Deferred(options) if free > 0 => {
                    (free, has_requests) = (free - 1, true);
                    JoinState::Requested(options)
                }
                state => state,
            };
        }
        has_requests
    }

    fn room_limit_reached(&self) -> Refusal {
        let limit = self.rooms_limit;
        let message = format!("a connection may be in at most {limit} rooms; leave one first");
        Refusal::new(ErrorCode::RoomLimit, message)
    }

    fn leaving(&self, name: &str) -> Result<RoomName, Box<reply::RoomResult>> {
        let room = RoomName::parse(name).and_then(|room| match room.kind() {
            RoomKind::Ordinary => self.joined(name, "unsubscribe from"),
            _ => {
                let message = match self.resolve(&room) {
                    Some(_) => format!("room '{name}' is joined automatically and cannot be left"),
                    None => format!("room '{name}' is the inbox of another principal"),
                };
                Err(Refusal::new(ErrorCode::Forbidden, message))
            }
        });
        room.map_err(|refusal| Box::new(rejected(name, refusal)))
    }

    fn acknowledged(&self, acks: Vec<request::Ack>) -> Result<Vec<Acknowledged>, Refusal> {
        let joined = |request::Ack { room, epoch, offset }: request::Ack| {
            Ok(Acknowledged { room: self.joined(&room, "acknowledge")?, epoch, offset })
        };
        acks.into_iter().map(joined).collect()
    }

    /// The canonical name of a room that this connection must be in. `action` completes the
    /// error message "cannot … room 'a'".
    fn joined(&self, name: &str, action: &str) -> Result<RoomName, Refusal> {
        RoomName::parse(name)?;
        let known = RoomName::parse(name).ok().and_then(|room| self.resolve(&room));
        known.ok_or_else(|| {
            let message = format!("cannot {action} room '{name}': you are not subscribed to it");
            Refusal::new(ErrorCode::NotSubscribed, message)
        })
    }

    /// The canonical name of a room, if this connection is in it.
    pub(super) fn resolve(&self, room: &RoomName) -> Option<RoomName> {
        let canonical = self.aliases.get(room).unwrap_or(room);
        self.rooms.contains_key(canonical).then(|| canonical.clone())
    }

    /// Keeps a seat. It replaces an earlier one in the same room.
    pub(super) fn keep_seat(&mut self, requested: &RoomName, seat: Seat) {
        let room = seat.room.clone();
        // No client needs many names for its rooms, so names beyond the limit are not remembered.
        if room != *requested && self.aliases.len() <= 2 * self.rooms_limit as usize {
            self.aliases.insert(requested.clone(), room.clone());
        }
        self.rooms.insert(room, seat);
    }

    pub(super) fn release(&mut self, room: &RoomName) -> Option<Seat> {
        self.aliases.retain(|_, canonical| canonical != room);
        self.rooms.remove(room)
    }

    pub(super) fn seat(&self, room: &RoomName) -> Option<&Seat> {
        self.rooms.get(room)
    }

    /// The ordinary rooms that this connection is in.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.keys().filter(|room| room.kind() == RoomKind::Ordinary)
    }

    /// How many these are.
    pub(super) fn room_count(&self) -> usize {
        self.rooms().count()
    }
}

/// The room to which a message goes, if this key may publish it. For WebSocket and HTTP.
pub(crate) fn may_publish(publish: &Publish, key: &Key, message_bytes: usize) -> Result<RoomName, Refusal> {
    let room = RoomName::parse(&publish.room)?;
    match room.kind() {
        // Its canonical name, which counts, may not be known yet.
        RoomKind::Ordinary => key.require(Scope::Publish, format_args!("publish to '{}'", &*room))?,
        RoomKind::Inbox | RoomKind::Broadcast => key.require_in(Verb::Publish, &room)?,
    }
    check_size(publish, message_bytes)?;
    Ok(room)
}

fn check_size(publish: &Publish, max: usize) -> Result<(), Refusal> {
    let bytes = publish.data.get().len();
    if bytes <= max {
        return Ok(());
    }
    let message = format!("data has {bytes} bytes; at most {max} are allowed here");
    Err(Refusal::new(ErrorCode::MessageTooLarge, message))
}

fn narrow_rooms(key: &Key, plugin_limit: Option<u32>) -> u32 {
    plugin_limit.map_or(key.limits.rooms, |rooms| rooms.min(key.limits.rooms))
}

fn narrow_message_bytes(message_bytes: usize, limits: &Limits) -> usize {
    limits.message_bytes.map_or(message_bytes, |max| message_bytes.min(max as usize))
}
