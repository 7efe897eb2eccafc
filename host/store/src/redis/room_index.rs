//! The index of all rooms in Redis: adds rooms, and removes those that no longer exist. Each room has a time
//! at which it may have expired and is checked; if it still exists then, it gets a later one. From time to
//! time a node checks the whole index.

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

/// How long rooms are gathered before they are added in one command.
const WRITE_DELAY: Duration = Duration::from_millis(100);
/// When a room is first checked after it was added. Rooms with members are added again before.
const FIRST_CHECK_DELAY: Duration = Duration::from_secs(60);
/// The longest time between two checks of a room.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// How long after its expected expiry a room is checked again.
const EXPIRY_MARGIN: Duration = Duration::from_secs(1);
/// How many rooms are checked at a time.
const PAGE_ROOMS: u64 = 200;

pub(super) struct RoomIndex {
    context: Arc<Context>,
    /// Rooms that wait to be added.
    pending: Mutex<HashSet<Arc<str>>>,
    /// Held while rooms are being checked.
    checking: Arc<tokio::sync::Mutex<()>>,
}

impl RoomIndex {
    pub(super) fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Self { context: context.clone(), pending: Mutex::default(), checking: Arc::default() })
    }

    /// Adds a room soon.
    pub(super) fn add(self: &Arc<Self>, room: &RoomName) {
        let mut pending = self.pending.lock().expect(POISONED);
        pending.insert(room.shared());
        if pending.len() == 1 {
            let index = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WRITE_DELAY).await;
                index.write().await;
            });
        }
    }

    /// Adds the pending rooms now.
    pub(super) async fn write(&self) {
        let Context { link, names, cluster_clock, .. } = &*self.context;
        let rooms = std::mem::take(&mut *self.pending.lock().expect(POISONED));
        if rooms.is_empty() {
            return;
        }
        let scored = |key: String, score: Value| {
            let entries = rooms.iter().flat_map(move |room| [score.clone(), Value::from(&**room)]);
            [Value::from(key)].into_iter().chain(entries).collect()
        };
        let first = answer::integer(cluster_clock.now() + FIRST_CHECK_DELAY.as_millis() as u64);
        let written = async {
            link.command("ZADD", scored(names.checks(), first)).await?;
            link.command("ZADD", scored(names.rooms(), "0".into())).await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "cannot add rooms to the index now; trying again later");
            self.pending.lock().expect(POISONED).extend(rooms);
        }
    }

    /// Checks the rooms that may have expired, unless a check is under way.
    pub(super) fn check(&self) {
        let Ok(permit) = self.checking.clone().try_lock_owned() else { return };
        let context = self.context.clone();
        tokio::spawn(async move {
            if let Err(error) = check_all(&context).await {
                tracing::debug!(%error, "cannot check the rooms of the index now; trying again later");
            }
            drop(permit);
        });
    }

    /// Checks the whole index and removes rooms that no longer exist, unless another node did so less than
    /// half of `interval` ago.
    pub(super) fn prune(&self, interval: Duration) {
        let context = self.context.clone();
        tokio::spawn(async move {
            match prune_rooms(&context, interval).await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "removed rooms that no longer exist from the index"),
                Err(error) => {
                    tracing::debug!(%error, "cannot check the index of rooms now; trying again later")
                }
            }
        });
    }
}

const POISONED: &str = "no code panics while it holds the pending rooms";

async fn check_all(context: &Context) -> Result<(), Unavailable> {
    let Context { link, names, .. } = context;
    loop {
        let (due, claimed) = context.claim_due(names.checks(), CLAIM_DURATION, PAGE_ROOMS).await?;
        let ttls = join_all(due.iter().map(|room| link.command("PTTL", vec![names.room(room).into()]))).await;
        let (mut gone, mut later) = (vec![], vec![Value::from(names.checks()), "XX".into()]);
        for (room, ttl) in due.iter().zip(ttls) {
            match ttl {
                Ok(Value::Integer(-2)) => gone.push(&**room),
                Ok(Value::Integer(ttl)) => {
                    // Without a time to live, PTTL is negative.
                    let ttl =
                        u64::try_from(ttl).unwrap_or(u64::MAX).min(MAX_CHECK_INTERVAL.as_millis() as u64);
                    let next =
                        claimed - CLAIM_DURATION.as_millis() as u64 + ttl + EXPIRY_MARGIN.as_millis() as u64;
                    later.extend([answer::integer(next), Value::from(&**room)]);
                }
                // This room is claimed again later, and does not delay the others.
                _ => {}
            }
        }
        if later.len() > 2 {
            link.command("ZADD", later).await?;
        }
        if !gone.is_empty() {
            schedules::unlist_rooms(link, names, claimed, gone.into_iter()).await?;
        }
        if (due.len() as u64) < PAGE_ROOMS {
            return Ok(());
        }
    }
}

async fn prune_rooms(context: &Context, interval: Duration) -> Result<usize, Unavailable> {
    let Context { link, names, node, .. } = context;
    let node = node.get().as_str().into();
    let lock = vec![names.pruned().into(), node, "NX".into(), "PX".into(), answer::millis(interval / 2)];
    if link.command("SET", lock).await?.is_null() {
        return Ok(0);
    }
    let (mut removed, mut from) = (0, "-".to_owned());
    loop {
        let page = context.rooms.page(&from, PAGE_ROOMS).await?;
        let Some((last, _)) = page.last() else { return Ok(removed) };
        from = format!("({last}");
        removed += page.iter().filter(|(_, summary)| summary.is_none()).count();
    }
}
