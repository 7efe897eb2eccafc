//! The index of all rooms in Redis: adds rooms, and removes those that no longer exist. Each room has a time
//! at which it may have expired and is checked; if it still exists then, it gets a later one. From time to
//! time a node checks the whole index.

use crate::{
    RoomSummary, Unavailable,
    redis::{
        arguments,
        context::{Context, lease_expiry::CLAIM_DURATION},
        replies,
        scripts::schedules,
    },
};
use fred::types::Value;
use futures_util::future::{join_all, try_join_all};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::room::RoomName;

/// How long rooms are gathered before they are added in one command.
const WRITE_DELAY: Duration = Duration::from_millis(100);
/// When a room is first checked after it was added. Rooms with members are added again before.
const FIRST_CHECK_DELAY: Duration = Duration::from_secs(60);
/// How long after a room was listed it may still be about to be created, because a node lists a room when it
/// asks for its messages.
const CREATION_WINDOW: Duration = Duration::from_secs(5);
/// The longest time between two checks of a room.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// How long after its expected expiry a room is checked again.
const EXPIRY_MARGIN: Duration = Duration::from_secs(1);
/// How many rooms are checked at a time.
const PAGE_ROOMS: u64 = 200;

/// A room of the index.
pub(super) struct IndexedRoom {
    pub name: Arc<str>,
    /// When it is checked next, in cluster time.
    check: Option<u64>,
    /// `None` if the room did not exist after `check` was read.
    pub summary: Option<RoomSummary>,
}

pub(super) struct RoomIndex {
    context: Arc<Context>,
    /// Rooms that wait to be added.
    pending: Mutex<HashSet<Arc<str>>>,
    /// Whether a task is about to add them.
    is_scheduled: AtomicBool,
    /// Held while rooms are being added.
    writing: tokio::sync::Mutex<()>,
    /// Held while rooms are being checked.
    checking: Arc<tokio::sync::Mutex<()>>,
}

impl RoomIndex {
    pub(super) fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context: context.clone(),
            pending: Mutex::default(),
            is_scheduled: AtomicBool::new(false),
            writing: Default::default(),
            checking: Arc::default(),
        })
    }

    /// Adds a room soon.
    pub(super) fn add(self: &Arc<Self>, room: &RoomName) {
        self.pending.locked().insert(room.shared());
        if !self.is_scheduled.swap(true, Ordering::AcqRel) {
            let index = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WRITE_DELAY).await;
                index.is_scheduled.store(false, Ordering::Release);
                index.write().await;
            });
        }
    }

    /// Adds the pending rooms now, or later if that fails.
    pub(super) async fn write(&self) {
        if let Err(error) = self.try_write().await {
            tracing::debug!(%error, "cannot add rooms to the index now; trying again later");
        }
    }

    /// Adds the pending rooms now. Those that cannot be added stay pending, also if nobody waits for this any more.
    pub(super) async fn try_write(&self) -> Result<(), Unavailable> {
        let Context { link, names, cluster_clock, .. } = &*self.context;
        // Whoever calls this next waits also for the rooms that are being written.
        let _writing = self.writing.lock().await;
        let rooms = self.pending.locked().clone();
        if rooms.is_empty() {
            return Ok(());
        }
        let scored = |key: String, score: Value| {
            let entries = rooms.iter().flat_map(move |room| [score.clone(), Value::from(&**room)]);
            [Value::from(key)].into_iter().chain(entries).collect()
        };
        let first = arguments::integer(cluster_clock.now() + FIRST_CHECK_DELAY.as_millis() as u64);
        link.command("ZADD", scored(names.checks(), first)).await?;
        link.command("ZADD", scored(names.rooms(), "0".into())).await?;
        self.pending.locked().retain(|room| !rooms.contains(room));
        Ok(())
    }

    /// At most `limit` rooms by name, starting at `from`, which is a bound of ZRANGEBYLEX. Removes those that
    /// no longer exist from the index.
    pub(super) async fn page(&self, from: &str, limit: u64) -> Result<Vec<IndexedRoom>, Unavailable> {
        let page = read_page(&self.context, from, limit).await?;
        unlist_gone(&self.context, &page).await?;
        Ok(page)
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

async fn check_all(context: &Context) -> Result<(), Unavailable> {
    let Context { link, names, .. } = context;
    loop {
        let (due, claimed) = context.claim_due(names.checks(), CLAIM_DURATION, PAGE_ROOMS).await?;
        let ttls = join_all(due.iter().map(|room| link.command("PTTL", vec![names.room(room).into()]))).await;
        let (mut gone, mut later) = (vec![], vec![Value::from(names.checks()), "XX".into()]);
        for (room, ttl) in due.iter().zip(ttls) {
            match ttl {
                Ok(Value::Integer(-2)) => gone.push((&**room, Some(claimed))),
                Ok(Value::Integer(ttl)) => {
                    // Without a time to live, PTTL is negative.
                    let ttl =
                        u64::try_from(ttl).unwrap_or(u64::MAX).min(MAX_CHECK_INTERVAL.as_millis() as u64);
                    let next =
                        claimed - CLAIM_DURATION.as_millis() as u64 + ttl + EXPIRY_MARGIN.as_millis() as u64;
                    later.extend([arguments::integer(next), Value::from(&**room)]);
                }
                // This room is claimed again later, and does not delay the others.
                _ => {}
            }
        }
        if later.len() > 2 {
            link.command("ZADD", later).await?;
        }
        if !gone.is_empty() {
            schedules::unlist_rooms(link, names, &gone).await?;
        }
        if (due.len() as u64) < PAGE_ROOMS {
            return Ok(());
        }
    }
}

async fn prune_rooms(context: &Context, interval: Duration) -> Result<u64, Unavailable> {
    let Context { link, names, node, .. } = context;
    let node = node.get().as_str().into();
    let lock = vec![names.pruned().into(), node, "NX".into(), "PX".into(), arguments::millis(interval / 2)];
    if link.command("SET", lock).await?.is_null() {
        return Ok(0);
    }
    let (mut removed, mut from) = (0, "-".to_owned());
    loop {
        let page = read_page(context, &from, PAGE_ROOMS).await?;
        let Some(last) = page.last() else { return Ok(removed) };
        from = format!("({}", last.name);
        removed += unlist_gone(context, &page).await?;
    }
}

/// At most `limit` rooms by name, starting at `from`. Changes nothing.
pub(super) async fn read_page(
    context: &Context,
    from: &str,
    limit: u64,
) -> Result<Vec<IndexedRoom>, Unavailable> {
    let Context { link, names, rooms, .. } = context;
    let limit = ["LIMIT".into(), "0".into(), arguments::integer(limit)];
    let command = [names.rooms().into(), from.into(), "+".into()].into_iter().chain(limit).collect();
    let listed = replies::texts(link.command("ZRANGEBYLEX", command).await?)?;
    if listed.is_empty() {
        return Ok(vec![]);
    }
    // Read before the summaries: if a room has the same time afterwards, nobody has listed it since.
    let command = [names.checks().into()].into_iter().chain(listed.iter().map(|room| Value::from(&**room)));
    let checks = replies::list(link.command("ZMSCORE", command.collect()).await?)?;
    let summaries = try_join_all(listed.iter().map(|room| rooms.summary(room))).await?;
    let known = listed.into_iter().zip(checks).zip(summaries);
    let room = |((name, check), summary)| IndexedRoom { name, check: replies::number(&check).ok(), summary };
    Ok(known.map(room).collect())
}

/// Removes rooms that do not exist from the index, unless they were listed in the last 5 s or since the page was
/// read. Returns how many were removed.
pub(super) async fn unlist_gone(context: &Context, page: &[IndexedRoom]) -> Result<u64, Unavailable> {
    let Context { link, names, cluster_clock, .. } = context;
    let first_check = cluster_clock.now() + FIRST_CHECK_DELAY.as_millis() as u64;
    let was_just_listed = |check: u64| {
        let since = first_check.checked_sub(check);
        since.is_some_and(|since| since < CREATION_WINDOW.as_millis() as u64)
    };
    let gone = page.iter().filter(|room| room.summary.is_none() && !room.check.is_some_and(was_just_listed));
    let gone: Vec<_> = gone.map(|room| (&*room.name, room.check)).collect();
    match gone.is_empty() {
        true => Ok(0),
        false => schedules::unlist_rooms(link, names, &gone).await,
    }
}
