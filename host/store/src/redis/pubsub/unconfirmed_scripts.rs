//! Scripts without an answer: Redis may have carried one out, or may still do so. The next script of the same room names
//! them, so that none is carried out behind it.

use std::{
    collections::{HashMap, VecDeque},
    sync::LazyLock,
    time::Duration,
};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// Whatever a clock shows, no script is carried out that was sent longer ago than this.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// Scripts of a room that are remembered, the newest. More within that time have been refused before they were sent.
const MAX_SCRIPTS_PER_ROOM: usize = 64;
/// Scripts that are forgotten at a time: every publish takes the same lock. It is more than one, so that none is left
/// in the end.
const FORGOTTEN_AT_ONCE: usize = 4;

/// Random for each process, so that no other node gives a script the same name.
static PROCESS: LazyLock<String> =
    LazyLock::new(|| format!("{:016x}", u64::from_le_bytes(crate::random::random())));

#[derive(Default)]
pub(crate) struct UnsureScripts {
    /// Those of each room and when they were sent, the newest last.
    rooms: HashMap<RoomName, VecDeque<(u64, Instant)>>,
    /// The room of each script that was noted, the newest last, until it is forgotten; also where the room is settled
    /// by now.
    noted: VecDeque<(Instant, RoomName)>,
}

impl UnsureScripts {
    /// The name by which Redis knows a script.
    pub(crate) fn name(script: u64) -> String {
        format!("{}-{script:x}", *PROCESS)
    }

    /// The names of those of a room, each behind a space.
    pub(crate) fn names_of(&self, room: &RoomName, now: Instant) -> String {
        let Some(scripts) = self.rooms.get(room) else { return String::new() };
        let recent = scripts.iter().filter(|(_, sent)| !is_over(*sent, now));
        recent.map(|(script, _)| format!(" {}", Self::name(*script))).collect()
    }

    /// A script that was sent at this time has no answer.
    pub(crate) fn note(&mut self, room: &RoomName, script: u64, sent: Instant) {
        self.forget_some(sent);
        let scripts = self.rooms.entry(room.clone()).or_default();
        if scripts.len() == MAX_SCRIPTS_PER_ROOM {
            scripts.pop_front();
        }
        scripts.push_back((script, sent));
        self.noted.push_back((sent, room.clone()));
    }

    /// Redis has heard the names of all scripts of the room.
    pub(crate) fn settle(&mut self, room: &RoomName, now: Instant) {
        self.rooms.remove(room);
        self.forget_some(now);
    }

    /// Forgets some of those that can no longer be carried out.
    fn forget_some(&mut self, now: Instant) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((_, room)) = self.noted.pop_front_if(|(sent, _)| is_over(*sent, now)) else { return };
            let last = self.rooms.get(&room).and_then(VecDeque::back);
            if last.is_some_and(|(_, sent)| is_over(*sent, now)) {
                self.rooms.remove(&room);
            }
        }
    }
}

fn is_over(sent: Instant, now: Instant) -> bool {
    now.saturating_duration_since(sent) >= MAX_DELAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_without_an_answer_is_named_until_it_can_no_longer_be_carried_out() {
        let (mut unsure, now) = (UnsureScripts::default(), Instant::now());
        let [a, b] = ["a", "b"].map(|name| RoomName::parse(name).unwrap());
        unsure.note(&a, 1, now);
        unsure.note(&a, 2, now + Duration::from_secs(1));
        unsure.note(&b, 3, now + Duration::from_secs(1));
        let named = |scripts: &[u64]| {
            scripts.iter().map(|n| format!(" {}", UnsureScripts::name(*n))).collect::<String>()
        };
        assert_eq!(unsure.names_of(&a, now), named(&[1, 2]));
        assert_eq!(unsure.names_of(&a, now + MAX_DELAY), named(&[2]));
        unsure.settle(&a, now);
        assert_eq!((unsure.names_of(&a, now), unsure.names_of(&b, now)), (String::new(), named(&[3])));
        unsure.note(&a, 4, now + 2 * MAX_DELAY);
        assert_eq!((unsure.rooms.len(), unsure.noted.len()), (1, 1), "what is over is forgotten");
        for n in 0..1000 {
            unsure.note(&a, n, now + 2 * MAX_DELAY);
        }
        assert_eq!(unsure.rooms[&a].len(), MAX_SCRIPTS_PER_ROOM);
    }

    #[test]
    fn a_lock_is_held_for_a_few_scripts_only_and_all_are_forgotten_in_the_end() {
        let (mut unsure, now) = (UnsureScripts::default(), Instant::now());
        let rooms: Vec<_> = (0..1000).map(|n| RoomName::parse(&format!("r:{n}")).unwrap()).collect();
        rooms.iter().for_each(|room| unsure.note(room, 0, now));
        // A room that has another script since keeps that one.
        unsure.note(&rooms[0], 1, now + Duration::from_secs(1));
        unsure.note(&rooms[1], 2, now + MAX_DELAY);
        assert_eq!(
            unsure.rooms.len(),
            1000 - FORGOTTEN_AT_ONCE + 2,
            "r:0, which stays, and r:1, which is noted anew"
        );
        for _ in 0..1000 / FORGOTTEN_AT_ONCE {
            unsure.settle(&rooms[999], now + MAX_DELAY);
        }
        assert_eq!((unsure.rooms.len(), unsure.noted.len()), (2, 2));
        unsure.settle(&rooms[999], now + 2 * MAX_DELAY);
        assert_eq!((unsure.rooms.len(), unsure.noted.len()), (0, 0));
    }
}
