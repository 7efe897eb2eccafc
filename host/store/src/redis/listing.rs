//! The list of all rooms: who comes into it, and how what is gone leaves it. A room that was listed is looked at once it may be gone, and
//! then again whenever that may be so; now and then a node goes through the whole list.

use super::{Shared, answer, lease, scripts};
use crate::Unavailable;
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

#[derive(Default)]
pub(super) struct Listing {
    /// To be listed.
    rooms: Mutex<HashSet<Arc<str>>>,
    /// Held while rooms are being looked at.
    checking: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    /// A room is to be listed, soon.
    pub(super) fn list(self: &Arc<Self>, room: &RoomName) {
        let mut listed = self.listing.rooms.lock().expect(HELD);
        listed.insert(room.shared());
        if listed.len() == 1 {
            let shared = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                shared.write_list().await;
            });
        }
    }

    /// Lists what is to be listed.
    pub(super) async fn write_list(&self) {
        let listed = std::mem::take(&mut *self.listing.rooms.lock().expect(HELD));
        if listed.is_empty() {
            return;
        }
        let scored = |key: String, score: Value| {
            let entries = listed.iter().flat_map(move |room| [score.clone(), Value::from(&**room)]);
            [Value::from(key)].into_iter().chain(entries).collect()
        };
        let first = answer::integer(self.cluster.now() + FIRST.as_millis() as u64);
        let written = async {
            self.link.command("ZADD", scored(self.names.checks(), first)).await?;
            self.link.command("ZADD", scored(self.names.rooms(), "0".into())).await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "rooms are listed later");
            self.listing.rooms.lock().expect(HELD).extend(listed);
        }
    }
}

const HELD: &str = "no code panics while it holds the rooms";

/// Looks at the rooms whose turn it is, unless that is being done.
pub(super) fn check(shared: &Arc<Shared>) {
    let Ok(turn) = shared.listing.checking.clone().try_lock_owned() else { return };
    let shared = shared.clone();
    tokio::spawn(async move {
        if let Err(error) = check_all(&shared).await {
            tracing::debug!(%error, "rooms that may be gone are looked at later");
        }
        drop(turn);
    });
}

async fn check_all(shared: &Shared) -> Result<(), Unavailable> {
    let Shared { link, names, .. } = shared;
    loop {
        let (due, claimed) = shared.due(names.checks(), lease::CLAIM, PIECE).await?;
        let left = join_all(due.iter().map(|room| link.command("PTTL", vec![names.room(room).into()]))).await;
        let (mut gone, mut later) = (vec![], vec![Value::from(names.checks()), "XX".into()]);
        for (room, left) in due.iter().zip(left) {
            match left {
                Ok(Value::Integer(-2)) => gone.push(Value::from(&**room)),
                Ok(Value::Integer(left)) => {
                    let left = u64::try_from(left).unwrap_or(u64::MAX).min(LONGEST.as_millis() as u64);
                    let gone = claimed - lease::CLAIM.as_millis() as u64 + left + SLACK.as_millis() as u64;
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
            let arguments = [vec![answer::integer(claimed)], gone].concat();
            link.run(&scripts::UNLIST, vec![names.rooms(), names.checks()], arguments).await?;
        }
        if (due.len() as u64) < PIECE {
            return Ok(());
        }
    }
}

/// Takes rooms that are gone from the list of rooms, unless another node did within `pause`.
pub(super) fn prune(shared: &Arc<Shared>, pause: Duration) {
    let shared = shared.clone();
    tokio::spawn(async move {
        match prune_rooms(&shared, pause).await {
            Ok(0) => {}
            Ok(gone) => tracing::debug!(gone, "took rooms that are gone from the list"),
            Err(error) => tracing::debug!(%error, "the list of rooms is seen to later"),
        }
    });
}

async fn prune_rooms(shared: &Shared, pause: Duration) -> Result<usize, Unavailable> {
    let Shared { link, names, node, .. } = shared;
    let node = node.load().as_str().into();
    let turn = vec![names.pruned().into(), node, "NX".into(), "PX".into(), answer::millis(pause / 2)];
    if link.command("SET", turn).await?.is_null() {
        return Ok(0);
    }
    let (mut gone, mut from) = (0, "-".to_owned());
    loop {
        let page = shared.rooms.page(&from, PIECE).await?;
        let Some((last, _)) = page.last() else { return Ok(gone) };
        from = format!("({last}");
        gone += page.iter().filter(|(_, summary)| summary.is_none()).count();
    }
}
