//! Scripts without an answer: Redis may have carried them out, or may still do so. The next script of the
//! same room names them, and from then on Redis refuses them. So none is carried out after a later one.

use std::{
    collections::{HashMap, VecDeque},
    sync::LazyLock,
    time::Duration,
};
use switchyard_protocol::room::RoomName;
use tokio::time::Instant;

/// How long after it was sent a script can still be carried out, whatever clocks show.
const MAX_SCRIPT_DELAY: Duration = Duration::from_secs(10);
/// How many scripts of a room are remembered, the newest ones. A room that reaches this within the delay has
/// a server that does not answer, so most of its scripts were never sent.
const MAX_SCRIPTS_PER_ROOM: usize = 64;
/// How many scripts are forgotten at a time. Few, because every publish takes the same lock; more than one,
/// so that all are forgotten in the end.
const MAX_FORGOTTEN_PER_CALL: usize = 4;

/// Random for each process, so that no two nodes give a script the same name.
static PROCESS_ID: LazyLock<String> =
    LazyLock::new(|| format!("{:016x}", u64::from_le_bytes(crate::random::random())));

#[derive(Default)]
pub(crate) struct UnconfirmedScripts {
    /// The scripts of each room and when they were sent, the newest last.
    rooms: HashMap<RoomName, VecDeque<(u64, Instant)>>,
    /// The room of each noted script, the newest last, until the script is forgotten, even if the room was
    /// confirmed since.
    noted: VecDeque<(Instant, RoomName)>,
}

impl UnconfirmedScripts {
    /// The name by which Redis knows a script.
    pub(crate) fn name(script: u64) -> String {
        format!("{}-{script:x}", *PROCESS_ID)
    }

    /// The names of a room's scripts, each after a space.
    pub(crate) fn names_of(&self, room: &RoomName, now: Instant) -> String {
        let Some(scripts) = self.rooms.get(room) else { return String::new() };
        let recent = scripts.iter().filter(|(_, sent)| !is_expired(*sent, now));
        recent.map(|(script, _)| format!(" {}", Self::name(*script))).collect()
    }

    /// Notes that a script, which was sent at this time, has no answer.
    pub(crate) fn note(&mut self, room: &RoomName, script: u64, sent: Instant) {
        self.forget_some(sent);
        let scripts = self.rooms.entry(room.clone()).or_default();
        if scripts.len() == MAX_SCRIPTS_PER_ROOM {
            scripts.pop_front();
        }
        scripts.push_back((script, sent));
        self.noted.push_back((sent, room.clone()));
    }

    /// Forgets the scripts of a room, because Redis knows the names of all of them.
    pub(crate) fn confirm(&mut self, room: &RoomName, now: Instant) {
        self.rooms.remove(room);
        self.forget_some(now);
    }

    /// Forgets some scripts that can no longer be carried out.
    fn forget_some(&mut self, now: Instant) {
        for _ in 0..MAX_FORGOTTEN_PER_CALL {
            let Some((_, room)) = self.noted.pop_front_if(|(sent, _)| is_expired(*sent, now)) else { return };
            let last = self.rooms.get(&room).and_then(VecDeque::back);
            if last.is_some_and(|(_, sent)| is_expired(*sent, now)) {
                self.rooms.remove(&room);
            }
        }
    }
}

fn is_expired(sent: Instant, now: Instant) -> bool {
    now.saturating_duration_since(sent) >= MAX_SCRIPT_DELAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_without_an_answer_is_named_until_it_can_no_longer_be_carried_out() {
        let (mut unconfirmed, now) = (UnconfirmedScripts::default(), Instant::now());
        let [a, b] = ["a", "b"].map(|name| RoomName::parse(name).unwrap());
        unconfirmed.note(&a, 1, now);
        unconfirmed.note(&a, 2, now + Duration::from_secs(1));
        unconfirmed.note(&b, 3, now + Duration::from_secs(1));
        let named = |scripts: &[u64]| {
            scripts.iter().map(|n| format!(" {}", UnconfirmedScripts::name(*n))).collect::<String>()
        };
        assert_eq!(unconfirmed.names_of(&a, now), named(&[1, 2]));
        assert_eq!(unconfirmed.names_of(&a, now + MAX_SCRIPT_DELAY), named(&[2]));
        unconfirmed.confirm(&a, now);
        assert_eq!(
            (unconfirmed.names_of(&a, now), unconfirmed.names_of(&b, now)),
            (String::new(), named(&[3]))
        );
        unconfirmed.note(&a, 4, now + 2 * MAX_SCRIPT_DELAY);
        assert_eq!(
            (unconfirmed.rooms.len(), unconfirmed.noted.len()),
            (1, 1),
            "expired scripts are forgotten"
        );
        for n in 0..1000 {
            unconfirmed.note(&a, n, now + 2 * MAX_SCRIPT_DELAY);
        }
        assert_eq!(unconfirmed.rooms[&a].len(), MAX_SCRIPTS_PER_ROOM);
    }

    #[test]
    fn each_call_forgets_only_a_few_scripts_and_all_are_forgotten_in_the_end() {
        let (mut unconfirmed, now) = (UnconfirmedScripts::default(), Instant::now());
        let rooms: Vec<_> = (0..1000).map(|n| RoomName::parse(&format!("r:{n}")).unwrap()).collect();
        rooms.iter().for_each(|room| unconfirmed.note(room, 0, now));
        // A room keeps a script that was noted later.
        unconfirmed.note(&rooms[0], 1, now + Duration::from_secs(1));
        unconfirmed.note(&rooms[1], 2, now + MAX_SCRIPT_DELAY);
        assert_eq!(
            unconfirmed.rooms.len(),
            1000 - MAX_FORGOTTEN_PER_CALL + 2,
            "r:0 and r:1 have a newer script"
        );
        for _ in 0..1000 / MAX_FORGOTTEN_PER_CALL {
            unconfirmed.confirm(&rooms[999], now + MAX_SCRIPT_DELAY);
        }
        assert_eq!((unconfirmed.rooms.len(), unconfirmed.noted.len()), (2, 2));
        unconfirmed.confirm(&rooms[999], now + 2 * MAX_SCRIPT_DELAY);
        assert_eq!((unconfirmed.rooms.len(), unconfirmed.noted.len()), (0, 0));
    }
}
