//! Scripts of which it is not known whether Redis has carried them out, nor whether it still will. The next of the same room names them, so
//! that none is carried out behind it.

use std::{
    collections::{HashMap, VecDeque},
    sync::LazyLock,
    time::Duration,
};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// Whatever a clock shows, nothing is carried out that was sent longer ago than this.
const LONGEST: Duration = Duration::from_secs(10);

/// Of this run, so that no other node gives one of its scripts the same name.
static NODE: LazyLock<String> =
    LazyLock::new(|| format!("{:016x}", u64::from_le_bytes(crate::random::random())));

/// Scripts of a room that are remembered, the newest. More within that time have been refused before they were sent.
const MOST: usize = 64;
/// Between two looks at what is over.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Unsure {
    rooms: HashMap<RoomName, VecDeque<(u64, Instant)>>,
    looked: Option<Instant>,
}

impl Unsure {
    /// What Redis knows a script by.
    pub(crate) fn name(script: u64) -> String {
        format!("{}-{script:x}", *NODE)
    }

    /// Those of a room by name, each behind a space.
    pub(crate) fn of(&self, room: &RoomName, now: Instant) -> String {
        let Some(scripts) = self.rooms.get(room) else { return String::new() };
        let recent = scripts.iter().filter(|(_, sent)| now.duration_since(*sent) < LONGEST);
        recent.map(|(script, _)| format!(" {}", Self::name(*script))).collect()
    }

    /// A script that was sent then has no answer.
    pub(crate) fn note(&mut self, room: &RoomName, script: u64, sent: Instant) {
        let is_over = |then: &Instant| sent.saturating_duration_since(*then) >= LONGEST;
        if self.looked.is_none_or(|looked| sent.saturating_duration_since(looked) >= LOOK) {
            self.looked = Some(sent);
            self.rooms.retain(|_, scripts| scripts.back().is_some_and(|(_, then)| !is_over(then)));
        }
        let scripts = self.rooms.entry(room.clone()).or_default();
        if scripts.len() == MOST {
            scripts.pop_front();
        }
        scripts.push_back((script, sent));
    }

    /// The room knows of all of them.
    pub(crate) fn settle(&mut self, room: &RoomName) {
        self.rooms.remove(room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_answer_is_named_until_it_can_come_no_more() {
        let (mut unsure, now) = (Unsure::default(), Instant::now());
        let [a, b] = ["a", "b"].map(|name| RoomName::parse(name).unwrap());
        unsure.note(&a, 1, now);
        unsure.note(&a, 2, now + Duration::from_secs(1));
        unsure.note(&b, 3, now + Duration::from_secs(1));
        let named =
            |scripts: &[u64]| scripts.iter().map(|n| format!(" {}", Unsure::name(*n))).collect::<String>();
        assert_eq!(unsure.of(&a, now), named(&[1, 2]));
        assert_eq!(unsure.of(&a, now + LONGEST), named(&[2]));
        unsure.settle(&a);
        assert_eq!((unsure.of(&a, now), unsure.of(&b, now)), (String::new(), named(&[3])));
        unsure.note(&a, 4, now + 2 * LONGEST);
        assert_eq!(unsure.rooms.len(), 1, "what is over is forgotten");
        for n in 0..1000 {
            unsure.note(&a, n, now + 2 * LONGEST);
        }
        assert_eq!(unsure.rooms[&a].len(), MOST);
    }
}
