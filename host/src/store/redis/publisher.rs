//! Publishes to rooms: what gathers for a room while messages of it are on their way goes together, so that one script has many, and of
//! a room there is one at a time. So the order is that in which they came, whatever a command goes through on its way.

use super::{
    KEEP, Shared, UNNEEDED, answer,
    batcher::{Batcher, Most},
    clock::DEADLINE,
    rooms::new_epoch,
    scripts, wire,
};
use crate::{
    memory::{Charge, Kind},
    protocol::Position,
    room::RoomName,
    store::{Message, Stored, Storing, Unavailable},
};
use bytes::Bytes;
use fred::types::Value;
use std::sync::Arc;

/// Others wait while Redis carries a script out.
const MOST: Most = Most { entries: 32, bytes: 256 << 10 };
/// Bytes that a message takes while it waits, beside its own.
const ENTRY: usize = 256;
/// How often a script is sent that Redis' clock found too late, as when it was set while the script was on its way.
const ATTEMPTS: usize = 3;

/// A message, as it waits.
struct Entry {
    body: Bytes,
    /// Where Redis has its idempotency key.
    key: Option<String>,
    needs_member: bool,
    _charge: Charge,
}

pub struct Publisher {
    shared: Arc<Shared>,
    batcher: Batcher<RoomName, Entry, Option<Stored>>,
}

impl Publisher {
    pub fn new(shared: &Arc<Shared>) -> Self {
        let to = shared.clone();
        let send = move |room, entries| send(to.clone(), room, entries);
        let batcher = Batcher::bounded(MOST, |entry: &Entry| entry.body.len(), send);
        Self { shared: shared.clone(), batcher }
    }

    pub fn publish(&self, message: Message<'_>) -> Storing {
        let Message { room, event, data, key, needs_member } = message;
        let body = Bytes::from(wire::body(event, data));
        let charge = self.shared.rooms.memory.charge(Kind::Publishes, body.len() + ENTRY);
        let key = key.map(|key| self.shared.names.once(room, key));
        Storing::UnderWay(self.batcher.put(room.clone(), Entry { body, key, needs_member, _charge: charge }))
    }
}

async fn send(
    shared: Arc<Shared>,
    room: RoomName,
    entries: Vec<Entry>,
) -> Result<Vec<Option<Stored>>, Unavailable> {
    let mut deadline = shared.time.now() + DEADLINE.as_millis() as u64;
    for _ in 0..ATTEMPTS {
        let (keys, arguments) = asked(&shared, &room, &entries, deadline);
        let said = shared.link.run(&scripts::PUBLISH, keys, arguments).await?;
        if !said.is_array() {
            // Nothing of it was done. A server of a Cluster may have a clock of its own.
            deadline = answer::number(&said)? / 1000 + DEADLINE.as_millis() as u64;
            continue;
        }
        let (stored, is_new) = stored(said, entries.len())?;
        if is_new {
            shared.list(&room);
        }
        return Ok(stored);
    }
    Err(Unavailable("Redis' clock was set again and again".to_owned()))
}

fn asked(shared: &Shared, room: &RoomName, entries: &[Entry], deadline: u64) -> (Vec<String>, Vec<Value>) {
    let (history, mut keys) = (&shared.retention.history, shared.rooms.keys(room));
    let mut arguments = vec![
        new_epoch("").into(),
        answer::integer(history.messages as u64),
        answer::millis(history.age),
        answer::millis(KEEP + history.age),
        answer::millis(shared.retention.key),
        shared.names.live(room).into(),
        answer::millis(UNNEEDED),
        answer::integer(history.bytes as u64),
        answer::integer(deadline),
    ];
    let others = keys.len();
    for entry in entries {
        let place = entry.key.as_ref().map_or(0, |key| {
            keys.push(key.clone());
            keys.len() - others
        });
        let needs_member = answer::integer(entry.needs_member.into());
        arguments.extend([Value::Bytes(entry.body.clone()), answer::integer(place as u64), needs_member]);
    }
    (keys, arguments)
}

/// What the script says of each message, and whether the room is new.
fn stored(said: Value, count: usize) -> Result<(Vec<Option<Stored>>, bool), Unavailable> {
    let mut parts = answer::list(said)?.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Null);
    let (epoch, is_new) = (answer::text(next())?, answer::number(&next())? == 1);
    let mut one = || {
        let (offset, duplicate) = (answer::number(&next())?, answer::number(&next())? == 1);
        let position = Position { epoch: epoch.clone(), offset };
        Ok((offset > 0).then_some(Stored { position, duplicate }))
    };
    Ok(((0..count).map(|_| one()).collect::<Result<_, _>>()?, is_new))
}
