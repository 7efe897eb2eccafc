//! The list of all rooms: who comes into it, and how what is gone leaves it. A room that was listed is looked at once it may be gone, and
//! then again whenever that may be so; now and then a node goes through the whole list.

use crate::{
    Unavailable,
    redis::{
        answer,
        context::{Context, lease_expiry::CLAIM_DURATION},
        scripts::schedules,
    },
};
use fred::types::Value;
use futures_util::future::join_all;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use switchyard_protocol::room::RoomName;

/// How long rooms to be listed gather.
const GATHER: Duration = Duration::from_millis(100);
/// When a room that was listed is looked at. Rooms that somebody is in are listed again before.
const FIRST: Duration = Duration::from_secs(60);
/// The longest between two looks.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long after it may be gone a room is looked at again.
const SLACK: Duration = Duration::from_secs(1);
/// Rooms that are looked at together.
const PIECE: u64 = 200;

pub(super) struct Listing {
    context: Arc<Context>,
    /// To be listed.
    rooms: Mutex<HashSet<Arc<str>>>,
    /// Held while rooms are being looked at.
    checking: Arc<tokio::sync::Mutex<()>>,
}

impl Listing {
    pub(super) fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Self { context: context.clone(), rooms: Mutex::default(), checking: Arc::default() })
    }

    /// A room is to be listed, soon.
    pub(super) fn add(self: &Arc<Self>, room: &RoomName) {
        let mut listed = self.rooms.lock().expect(HELD);
        listed.insert(room.shared());
        if listed.len() == 1 {
            let listing = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                listing.write().await;
            });
        }
    }

    /// Lists what is to be listed.
    pub(super) async fn write(&self) {
        let Context { link, names, cluster_clock, .. } = &*self.context;
        let listed = std::mem::take(&mut *self.rooms.lock().expect(HELD));
        if listed.is_empty() {
            return;
        }
        let scored = |key: String, score: Value| {
            let entries = listed.iter().flat_map(move |room| [score.clone(), Value::from(&**room)]);
            [Value::from(key)].into_iter().chain(entries).collect()
        };
        let first = answer::integer(cluster_clock.now() + FIRST.as_millis() as u64);
        let written = async {
            link.command("ZADD", scored(names.checks(), first)).await?;
            link.command("ZADD", scored(names.rooms(), "0".into())).await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "rooms are listed later");
            self.rooms.lock().expect(HELD).extend(listed);
        }
    }

    /// Looks at the rooms whose turn it is, unless that is being done.
    pub(super) fn check(&self) {
        let Ok(turn) = self.checking.clone().try_lock_owned() else { return };
        let context = self.context.clone();
        tokio::spawn(async move {
            if let Err(error) = check_all(&context).await {
                tracing::debug!(%error, "rooms that may be gone are looked at later");
            }
            drop(turn);
        });
    }

    /// Takes rooms that are gone from the list of rooms, unless another node did within `pause`.
    pub(super) fn prune(&self, pause: Duration) {
        let context = self.context.clone();
        tokio::spawn(async move {
            match prune_rooms(&context, pause).await {
                Ok(0) => {}
                Ok(gone) => tracing::debug!(gone, "took rooms that are gone from the list"),
                Err(error) => tracing::debug!(%error, "the list of rooms is seen to later"),
            }
        });
    }
}

const HELD: &str = "no code panics while it holds the rooms";

async fn check_all(context: &Context) -> Result<(), Unavailable> {
    let Context { link, names, .. } = context;
    loop {
        let (due, claimed) = context.claim_due(names.checks(), CLAIM_DURATION, PIECE).await?;
        let left = join_all(due.iter().map(|room| link.command("PTTL", vec![names.room(room).into()]))).await;
        let (mut gone, mut later) = (vec![], vec![Value::from(names.checks()), "XX".into()]);
        for (room, left) in due.iter().zip(left) {
            match left {
                Ok(Value::Integer(-2)) => gone.push(&**room),
                Ok(Value::Integer(left)) => {
                    let left = u64::try_from(left).unwrap_or(u64::MAX).min(LONGEST.as_millis() as u64);
                    let gone = claimed - CLAIM_DURATION.as_millis() as u64 + left + SLACK.as_millis() as u64;
                    later.extend([answer::integer(gone), Value::from(&**room)]);
                }
                // It is given out again, and keeps none of the others.
                _ => {}
            }
        }
        if later.len() > 2 {
            link.command("ZADD", later).await?;
        }
        if !gone.is_empty() {
            schedules::unlist_rooms(link, names, claimed, gone.into_iter()).await?;
        }
        if (due.len() as u64) < PIECE {
            return Ok(());
        }
    }
}

async fn prune_rooms(context: &Context, pause: Duration) -> Result<usize, Unavailable> {
    let Context { link, names, node, .. } = context;
    let node = node.get().as_str().into();
    let turn = vec![names.pruned().into(), node, "NX".into(), "PX".into(), answer::millis(pause / 2)];
    if link.command("SET", turn).await?.is_null() {
        return Ok(0);
    }
    let (mut gone, mut from) = (0, "-".to_owned());
    loop {
        let page = context.rooms.page(&from, PIECE).await?;
        let Some((last, _)) = page.last() else { return Ok(gone) };
        from = format!("({last}");
        gone += page.iter().filter(|(_, summary)| summary.is_none()).count();
    }
}
