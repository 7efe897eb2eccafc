//! The scripts that end a session. Its time to live starts when its connection ends. When that is over, the
//! session is deleted.

use crate::{
    ConnectionId, Unavailable,
    redis::{
        arguments,
        lifetimes::IN_USE_TTL,
        link::Link,
        names::Names,
        replies::{Elements, InvalidReply},
        scripts::sessions::fields,
        session_key::SessionKey,
        stored_rooms::{RoomField, StoredRooms},
    },
};
use std::time::Duration;

script!(RELEASE_SESSION = "release_session");
script!(EXPIRE_SESSION = "expire_session");
script!(DELETE_SESSION = "delete_session");

/// Who must hold the session, and how it is released.
pub(crate) struct ReleaseRequest<'a> {
    pub connection: ConnectionId,
    /// A dead node that must hold the session as well. Then the reply contains the session's rooms.
    pub dead_node: Option<&'a str>,
    /// How long the session can be resumed.
    pub ttl: Duration,
    /// Generation, number and fields of a last write, if the outcome of an earlier one is unknown.
    pub final_write: Option<(u64, u64, Vec<RoomField>)>,
}

/// The outcome of a release, each with the time in milliseconds by Redis' clock.
pub(crate) enum ReleaseReply {
    Released {
        time: u64,
        generation: u64,
        number: u64,
        /// When the session ends, in cluster time.
        end: u64,
        /// An error: the record has an invalid room. The session is released nevertheless.
        rooms: Result<StoredRooms, Unavailable>,
    },
    /// There is no record.
    NotFound { time: u64 },
    /// Another connection holds the session.
    HeldByOther { time: u64 },
}

/// Starts the time to live of a session. `cluster_time` is in milliseconds.
pub(crate) async fn release(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    cluster_time: u64,
    request: ReleaseRequest<'_>,
) -> Result<ReleaseReply, Unavailable> {
    let mut arguments = vec![
        request.connection.to_string().into(),
        request.dead_node.unwrap_or_default().into(),
        arguments::integer(cluster_time),
        arguments::millis(request.ttl),
        arguments::millis(IN_USE_TTL),
        arguments::integer(request.dead_node.is_some().into()),
    ];
    if let Some((generation, number, rooms)) = &request.final_write {
        arguments.extend([arguments::integer(*generation), arguments::integer(*number)]);
        arguments.extend(fields(rooms));
    }
    let mut reply = Elements::of(link.run(&RELEASE_SESSION, vec![session.record(names)], arguments).await?)?;
    let (status, time) = (reply.text()?, reply.number()?);
    Ok(match &*status {
        "ok" => ReleaseReply::Released {
            time,
            generation: reply.number()?,
            number: reply.number()?,
            end: reply.number()?,
            rooms: reply.rest().map_err(Unavailable::from).and_then(|fields| StoredRooms::decode(&fields)),
        },
        "gone" => ReleaseReply::NotFound { time },
        _ => ReleaseReply::HeldByOther { time },
    })
}

pub(crate) enum EndReply {
    /// A connection holds the session, or it does not exist.
    Live,
    /// The session ends at this cluster time.
    Later { end: u64 },
    /// The session has ended now. It was in these rooms.
    Ended {
        /// In milliseconds by Redis' clock.
        time: u64,
        generation: u64,
        /// The number of the last write.
        number: u64,
        rooms: StoredRooms,
    },
}

/// Ends a session whose time to live is over at `cluster_time`, in milliseconds. Its record stays.
pub(crate) async fn end(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    cluster_time: u64,
) -> Result<EndReply, Unavailable> {
    let reply = link
        .run(&EXPIRE_SESSION, vec![session.record(names)], vec![arguments::integer(cluster_time)])
        .await?;
    let mut reply = Elements::of(reply)?;
    Ok(match &*reply.text()? {
        "live" => EndReply::Live,
        "later" => EndReply::Later { end: reply.number()? },
        "ended" => EndReply::Ended {
            time: reply.number()?,
            generation: reply.number()?,
            number: reply.number()?,
            rooms: StoredRooms::decode(&reply.rest()?)?,
        },
        _ => return Err(InvalidReply::Status.into()),
    })
}

/// Deletes the record of a session that has ended, if nobody has written to it since.
pub(crate) async fn delete(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    (generation, number): (u64, u64),
) -> Result<(), Unavailable> {
    let arguments = vec![arguments::integer(generation), arguments::integer(number)];
    link.run(&DELETE_SESSION, vec![session.record(names)], arguments).await.map(drop)
}
