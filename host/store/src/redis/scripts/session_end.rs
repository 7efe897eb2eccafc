//! The scripts that end a session: its time to live starts when its connection ends, and when that is over the session is
//! removed.

use crate::{
    Unavailable,
    redis::{
        answer::{self, Elements, InvalidReply},
        lifetimes::KEEP,
        link::Link,
        names::Names,
        scripts::sessions::{SessionKey, fields},
        stored_rooms::{RoomField, StoredRooms},
    },
};
use std::time::Duration;

script!(RELEASE_SESSION = "release_session");
script!(EXPIRE_SESSION = "expire_session");
script!(DELETE_SESSION = "delete_session");

/// Whose session it must be, and what becomes of it.
pub(crate) struct ReleaseRequest<'a> {
    pub connection: &'a str,
    /// The dead node whose session it must be as well; then the reply has the session's rooms.
    pub dead_node: Option<&'a str>,
    /// How long it can be resumed.
    pub ttl: Duration,
    /// Generation, number and content of a last write.
    pub final_write: Option<(u64, u64, Vec<RoomField>)>,
}

/// What became of it, each with Redis' time in milliseconds.
pub(crate) enum ReleaseReply {
    Released {
        time: u64,
        generation: u64,
        number: u64,
        /// When it ends, by cluster time.
        end: u64,
        /// An error: the record holds an invalid room. It is let go all the same.
        rooms: Result<StoredRooms, Unavailable>,
    },
    /// There is no record.
    NotFound { time: u64 },
    /// Somebody else holds it.
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
        request.connection.into(),
        request.dead_node.unwrap_or_default().into(),
        answer::integer(cluster_time),
        answer::millis(request.ttl),
        answer::millis(KEEP),
        answer::integer(request.dead_node.is_some().into()),
    ];
    if let Some((generation, number, rooms)) = &request.final_write {
        arguments.extend([answer::integer(*generation), answer::integer(*number)]);
        arguments.extend(fields(rooms));
    }
    let mut reply = Elements::of(link.run(&RELEASE_SESSION, vec![session.name(names)], arguments).await?)?;
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
    /// Somebody holds it, or it is not there.
    Live,
    /// It ends at this cluster time.
    Later { end: u64 },
    /// It is over from now on, and was in these rooms.
    Ended {
        /// In milliseconds by Redis' clock.
        time: u64,
        generation: u64,
        /// Of the last write.
        number: u64,
        rooms: StoredRooms,
    },
}

/// Ends a session whose time is over by `cluster_time`, which is in milliseconds. Its record stays.
pub(crate) async fn end(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    cluster_time: u64,
) -> Result<EndReply, Unavailable> {
    let reply =
        link.run(&EXPIRE_SESSION, vec![session.name(names)], vec![answer::integer(cluster_time)]).await?;
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

/// Deletes the record of a session that has ended, if nobody wrote to it since.
pub(crate) async fn delete(
    link: &Link,
    names: &Names,
    session: SessionKey<'_>,
    (generation, number): (u64, u64),
) -> Result<(), Unavailable> {
    let arguments = vec![answer::integer(generation), answer::integer(number)];
    link.run(&DELETE_SESSION, vec![session.name(names)], arguments).await.map(drop)
}
