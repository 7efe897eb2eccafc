//! Lets a session go in Redis, for a connection that ended or a node that died. What follows from that is the caller's affair.

use crate::{
    Unavailable,
    redis::{
        answer,
        context::Context,
        lifetimes::KEEP,
        scripts,
        session_id::SessionId,
        stored_rooms::{Field, Rooms},
    },
};
use fred::types::Value;
use std::time::Duration;

/// Whose session it must be, and what becomes of it.
pub(crate) struct LettingGo<'a> {
    pub connection: &'a str,
    /// Where it must be this node's too, which is dead; then its rooms are answered.
    pub dead: Option<&'a str>,
    /// How long it can be resumed.
    pub ttl: Duration,
    /// Generation, number and content of a last write.
    pub last: Option<(u64, u64, Vec<Field>)>,
}

/// What became of it, each with Redis' time in milliseconds.
pub(crate) enum LetGo {
    Done {
        time: u64,
        generation: u64,
        number: u64,
        /// When it ends, by cluster time.
        end: u64,
        /// An error: the record holds what is no room. It is let go all the same.
        rooms: Result<Rooms, Unavailable>,
    },
    /// There is no record.
    Gone { time: u64 },
    /// Somebody else holds it.
    Others { time: u64 },
}

pub(crate) async fn let_go(
    context: &Context,
    principal: &str,
    id: SessionId,
    asked: LettingGo<'_>,
) -> Result<LetGo, Unavailable> {
    let mut arguments: Vec<Value> = vec![
        asked.connection.into(),
        asked.dead.unwrap_or_default().into(),
        answer::integer(context.cluster_time().await?),
        answer::millis(asked.ttl),
        answer::millis(KEEP),
        answer::integer(asked.dead.is_some().into()),
    ];
    if let Some((generation, number, fields)) = asked.last {
        arguments.extend([answer::integer(generation), answer::integer(number)]);
        arguments
            .extend(fields.into_iter().flat_map(|(room, place)| [Value::from(room.as_str()), place.into()]));
    }
    let keys = vec![context.names.session(principal, id)];
    let parts = answer::texts(context.link.run(&scripts::LETGO, keys, arguments).await?)?;
    let nth = |n| answer::nth(&parts, n);
    let time = nth(1)?;
    Ok(match &*parts[0] {
        "ok" => {
            let rooms = Rooms::read(parts.get(5..).unwrap_or_default());
            LetGo::Done { time, generation: nth(2)?, number: nth(3)?, end: nth(4)?, rooms }
        }
        "gone" => LetGo::Gone { time },
        _ => LetGo::Others { time },
    })
}
