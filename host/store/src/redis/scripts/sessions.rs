//! The scripts that write a session's record while a connection holds it: to create, resume and change it.
//! How a session ends is in `scripts::session_end`.

use crate::{
    ConnectionId, ResumeCheck, Unavailable,
    redis::{
        arguments,
        lifetimes::IN_USE_TTL,
        link::Link,
        names::Names,
        replies::{self, Elements, InvalidReply},
        scripts::connections::SlotRequest,
        session_key::SessionKey,
        stored_rooms::{RoomField, StoredRooms},
    },
};
use fred::types::Value;
use std::sync::Arc;
use switchyard_protocol::room::RoomName;

script!(CREATE_SESSION = "create_session");
script!(CHECK_RESUME = "check_resume");
script!(RESUME_SESSION = "resume_session");
script!(UPDATE_SESSION = "update_session");
script!(REPLACE_SESSION = "replace_session");
script!(SESSION_HOLDERS = "session_holders");

/// The connection that holds a session or is about to, and the node of that connection.
#[derive(Clone, Copy)]
pub(crate) struct SessionHolder<'a> {
    pub connection: ConnectionId,
    pub node: &'a str,
}

/// Rooms and their memberships, alternating.
pub(super) fn fields(fields: &[RoomField]) -> impl Iterator<Item = Value> {
    fields.iter().flat_map(|(room, text)| [Value::from(room.as_str()), text.as_str().into()])
}

/// Times are in milliseconds by Redis' clock.
pub(crate) enum CreateReply {
    /// The time is also the generation of the session.
    Created { time: u64 },
    /// The deadline had passed, and nothing was written.
    Late { time: u64 },
}

/// Creates a session in these rooms. The deadline is in milliseconds by Redis' clock.
pub(crate) async fn create(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    holder: SessionHolder<'_>,
    deadline: u64,
    rooms: &[RoomField],
) -> Result<CreateReply, Unavailable> {
    let mut arguments = vec![
        holder.connection.to_string().into(),
        holder.node.into(),
        arguments::integer(deadline),
        arguments::millis(IN_USE_TTL),
    ];
    arguments.extend(fields(rooms));
    let mut reply = Elements::of(link.run(&CREATE_SESSION, vec![session.record(names)], arguments).await?)?;
    let (status, time) = (reply.text()?, reply.number()?);
    Ok(match &*status {
        "ok" => CreateReply::Created { time },
        _ => CreateReply::Late { time },
    })
}

/// Whether a connection of `node` can resume a session. With `slot`, this includes whether it would get a connection
/// slot. `cluster_time` is in milliseconds.
pub(crate) async fn check_resume(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    node: &str,
    cluster_time: u64,
    slot: Option<SlotRequest>,
) -> Result<ResumeCheck, Unavailable> {
    let (mut keys, mut arguments) = (vec![session.record(names)], vec![arguments::integer(cluster_time)]);
    if let Some(SlotRequest { own, max_connections }) = slot {
        keys.push(names.connections(session.principal));
        arguments.extend([
            node.into(),
            arguments::integer(own.into()),
            arguments::integer(max_connections.into()),
        ]);
    }
    let mut reply = Elements::of(link.run(&CHECK_RESUME, keys, arguments).await?)?;
    Ok(match &*reply.text()? {
        "ok" => ResumeCheck::Allowed,
        "none" => ResumeCheck::NotFound,
        "full" => ResumeCheck::LimitReached(reply.number()? as u32),
        _ => return Err(InvalidReply::Status.into()),
    })
}

/// How a connection resumes a session.
pub(crate) struct ResumeRequest {
    /// When the connection asked for the session, in microseconds by the clock of the server that has it.
    pub requested_at: u64,
    /// In milliseconds by the same clock.
    pub deadline: u64,
    /// Cluster time in milliseconds.
    pub cluster_time: u64,
    /// The connection slot to be acquired together with the session.
    pub slot: Option<SlotRequest>,
}

pub(crate) struct ResumeReply {
    /// Redis' clock, in Unix microseconds.
    pub time: u64,
    pub outcome: ResumeOutcome,
}

pub(crate) enum ResumeOutcome {
    /// The connection holds the session, and has its slot.
    Resumed {
        generation: u64,
        /// The connection that held it.
        previous: Option<ConnectionId>,
        /// The node of that connection; `""` if there was none.
        previous_node: Arc<str>,
        rooms: StoredRooms,
    },
    /// There is no such session. The connection has its slot.
    Gone,
    /// The principal has reached its limit with this many connections. The session is unchanged.
    Full(u32),
    /// Another connection, which asked later, has the session.
    TakenSince,
    /// The deadline had passed, and nothing was written.
    Late,
}

/// Hands a session to a connection, unless another connection that asked later has it.
pub(crate) async fn resume(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    holder: SessionHolder<'_>,
    ResumeRequest { requested_at, deadline, cluster_time, slot }: ResumeRequest,
) -> Result<ResumeReply, Unavailable> {
    let mut keys = vec![session.record(names)];
    keys.extend(slot.map(|_| names.connections(session.principal)));
    let mut arguments = vec![
        holder.connection.to_string().into(),
        holder.node.into(),
        arguments::integer(requested_at),
        arguments::integer(deadline),
        arguments::millis(IN_USE_TTL),
        arguments::integer(cluster_time),
    ];
    arguments.extend(slot.into_iter().flat_map(SlotRequest::arguments));
    let mut reply = Elements::of(link.run(&RESUME_SESSION, keys, arguments).await?)?;
    let (status, time) = (reply.text()?, reply.number()?);
    let outcome = match &*status {
        "ok" => ResumeOutcome::Resumed {
            generation: reply.number()?,
            previous: ConnectionId::parse(&reply.text()?),
            previous_node: reply.text()?,
            rooms: StoredRooms::decode(&reply.rest()?)?,
        },
        "none" => ResumeOutcome::Gone,
        "full" => ResumeOutcome::Full(reply.number()? as u32),
        "again" => ResumeOutcome::TakenSince,
        _ => ResumeOutcome::Late,
    };
    Ok(ResumeReply { time, outcome })
}

/// The outcome of a write of a session.
#[derive(Debug, PartialEq)]
pub(crate) enum WriteReply {
    /// Written at this time, in milliseconds by Redis' clock. The record also named these rooms, which are left
    /// now.
    Written { time: u64, left: Vec<RoomName> },
    /// Another connection has the session.
    Taken,
    /// The record is not what this node left: Redis has gone back to an older state, or another node released
    /// the session.
    Behind,
    /// There is no record.
    Gone,
    /// The deadline had passed, and nothing was written.
    Late,
}

impl WriteReply {
    fn read(reply: Value) -> Result<Self, Unavailable> {
        let mut reply = Elements::of(reply)?;
        Ok(match &*reply.text()? {
            "ok" => {
                let time = reply.number()?;
                let left = reply.rest()?.iter().filter_map(|room| RoomName::parse(room).ok()).collect();
                Self::Written { time, left }
            }
            "taken" => Self::Taken,
            "behind" => Self::Behind,
            "gone" => Self::Gone,
            "late" => Self::Late,
            _ => return Err(InvalidReply::Status.into()),
        })
    }
}

/// Changes some rooms of a session that a connection holds. Each write has a higher `number` than the previous
/// one in the same generation.
pub(crate) async fn update(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    connection: ConnectionId,
    (generation, number): (u64, u64),
    rooms: &[RoomField],
) -> Result<WriteReply, Unavailable> {
    let mut arguments = vec![
        connection.to_string().into(),
        arguments::integer(generation),
        arguments::integer(number),
        arguments::millis(IN_USE_TTL),
    ];
    arguments.extend(fields(rooms));
    WriteReply::read(link.run(&UPDATE_SESSION, vec![session.record(names)], arguments).await?)
}

/// A write of a whole session.
pub(crate) struct WholeWrite<'a> {
    pub generation: u64,
    pub number: u64,
    /// In milliseconds by Redis' clock.
    pub deadline: u64,
    /// Creates the record if it does not exist.
    pub may_create: bool,
    pub rooms: &'a [RoomField],
}

/// Writes a session as a whole, as its connection holds it.
pub(crate) async fn replace(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    holder: SessionHolder<'_>,
    write: WholeWrite<'_>,
) -> Result<WriteReply, Unavailable> {
    let mut arguments = vec![
        holder.connection.to_string().into(),
        holder.node.into(),
        arguments::integer(write.generation),
        arguments::integer(write.number),
        arguments::integer(write.deadline),
        arguments::integer(write.may_create.into()),
        arguments::millis(IN_USE_TTL),
    ];
    arguments.extend(fields(write.rooms));
    WriteReply::read(link.run(&REPLACE_SESSION, vec![session.record(names)], arguments).await?)
}

/// Who holds a session according to its record.
pub(crate) struct HolderRecord {
    pub generation: u64,
    /// The number of the last write.
    pub number: u64,
    pub connection: Arc<str>,
    pub node: Arc<str>,
}

/// Who holds each of these sessions, which all belong to one principal. `None`: the session does not exist, or
/// nobody holds it.
pub(crate) async fn holders<'a>(
    link: &Link,
    names: &Names,
    sessions: impl Iterator<Item = SessionKey<'a>>,
) -> Result<Vec<Option<HolderRecord>>, Unavailable> {
    let keys = sessions.map(|session| session.record(names)).collect();
    let reply = replies::texts(link.run(&SESSION_HOLDERS, keys, vec![]).await?)?;
    let read = |parts: &[Arc<str>]| {
        let (generation, number) = (parts[0].parse().ok()?, parts[1].parse().ok()?);
        Some(HolderRecord { generation, number, connection: parts[2].clone(), node: parts[3].clone() })
    };
    Ok(reply.chunks_exact(4).map(read).collect())
}
