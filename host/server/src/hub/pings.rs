//! Pings that a connection was sent behind what its client has to hear, and what each confirms: who answers one has read
//! everything before it. The heartbeat's pings are not among them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

/// Costs a connection three words until it is first used.
#[derive(Default)]
pub(crate) struct Pings {
    sent: Mutex<Option<Box<Sent>>>,
    /// A sign of life is awaited.
    probing: AtomicBool,
}

#[derive(Default)]
struct Sent {
    /// The nonce of the last ping. Kept as long as the connection, so that a late answer confirms nothing newer.
    last: u64,
    /// One a room at most; nonces rise.
    unanswered: Vec<(u64, Confirms)>,
    /// When a sign of life was asked for last.
    probed: Option<Instant>,
}

/// What the answer to a ping confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Confirms {
    /// The client has heard that a room goes on after `position`. `before` is the last epoch that it is known to have heard of.
    Moved { room: RoomName, before: Arc<str>, position: Position },
    /// The client lives, and is here.
    Lives,
}

impl Confirms {
    fn is_about(&self, name: &RoomName) -> bool {
        matches!(self, Self::Moved { room, .. } if room == name)
    }
}

const HELD: &str = "no code panics while it holds the pings";

impl Pings {
    /// The nonce of a ping that confirms that a room has moved to `position`.
    pub(crate) fn moved(&self, room: &RoomName, before: &Arc<str>, position: &Position) -> u64 {
        let mut sent = self.sent.lock().expect(HELD);
        let sent = sent.get_or_insert_default();
        // Unless an earlier move was heard of, the client still is where it was before that.
        let earlier = sent.unanswered.iter().position(|(_, confirms)| confirms.is_about(room));
        let before = match earlier.map(|n| sent.unanswered.remove(n)) {
            Some((_, Confirms::Moved { before, .. })) => before,
            _ => before.clone(),
        };
        sent.last += 1;
        let confirms = Confirms::Moved { room: room.clone(), before, position: position.clone() };
        sent.unanswered.push((sent.last, confirms));
        sent.last
    }

    /// The nonce of a ping that confirms that the client lives.
    pub(crate) fn probe(&self) -> u64 {
        let mut sent = self.sent.lock().expect(HELD);
        let sent = sent.get_or_insert_default();
        sent.unanswered.retain(|(_, confirms)| *confirms != Confirms::Lives);
        sent.last += 1;
        sent.unanswered.push((sent.last, Confirms::Lives));
        sent.probed = Some(Instant::now());
        self.probing.store(true, Ordering::Release);
        sent.last
    }

    /// Something came from a client whose socket was last seen empty at an instant. Where that was after a sign of life was asked
    /// for, this is one, also from a client that answers no pings; once.
    pub(crate) fn is_alive(&self, emptied: impl FnOnce() -> Instant) -> bool {
        if !self.probing.load(Ordering::Acquire) {
            return false;
        }
        let mut sent = self.sent.lock().expect(HELD);
        let Some(sent) = &mut *sent else { return false };
        let alive = sent.probed.is_some_and(|probed| emptied() > probed);
        if alive {
            sent.unanswered.retain(|(_, confirms)| *confirms != Confirms::Lives);
            self.probing.store(false, Ordering::Release);
        }
        alive
    }

    /// What an answer confirms. A client may answer only the last of several pings.
    pub(crate) fn answered(&self, nonce: u64) -> Vec<Confirms> {
        let mut sent = self.sent.lock().expect(HELD);
        let Some(sent) = &mut *sent else { return vec![] };
        let count = sent.unanswered.partition_point(|(sent, _)| *sent <= nonce);
        let confirmed: Vec<_> = sent.unanswered.drain(..count).map(|(_, confirms)| confirms).collect();
        if confirmed.contains(&Confirms::Lives) {
            self.probing.store(false, Ordering::Release);
        }
        confirmed
    }

    /// The epoch of a room that the client last heard of for certain, where it is not known to have heard of the
    /// present one.
    pub(crate) fn unheard(&self, room: &RoomName) -> Option<Arc<str>> {
        let sent = self.sent.lock().expect(HELD);
        let mut unanswered = sent.iter().flat_map(|sent| &sent.unanswered);
        unanswered.find_map(|(_, confirms)| match confirms {
            Confirms::Moved { room: name, before, position } if name == room && *before != position.epoch => {
                Some(before.clone())
            }
            _ => None,
        })
    }

    /// The client left the room, or is known to have heard of its epoch in another way.
    pub(crate) fn forget(&self, room: &RoomName) {
        if let Some(sent) = &mut *self.sent.lock().expect(HELD) {
            sent.unanswered.retain(|(_, confirms)| !confirms.is_about(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_confirms_what_was_sent_before_its_ping_and_nothing_newer() {
        let (pings, [a, b]) = (Pings::default(), ["a", "b"].map(|name| RoomName::parse(name).unwrap()));
        let at = |epoch: &str| Position { epoch: epoch.into(), offset: 3 };
        assert_eq!((pings.unheard(&a), pings.answered(7)), (None, vec![]));
        let first = pings.moved(&a, &"e".into(), &at("f"));
        let second = pings.moved(&b, &"x".into(), &at("y"));
        let third = pings.moved(&a, &"f".into(), &at("g"));
        assert_eq!(pings.answered(first), [], "the room has moved on since");
        assert_eq!(pings.unheard(&a).as_deref(), Some("e"), "as far as is known");
        let moved =
            |room, before: &str, to| Confirms::Moved { room, before: before.into(), position: at(to) };
        assert_eq!(pings.answered(second), [moved(b, "x", "y")]);
        assert_eq!(pings.answered(third), [moved(a.clone(), "e", "g")]);
        assert_eq!((pings.unheard(&a), pings.answered(third)), (None, vec![]));
        let fourth = pings.moved(&a, &"g".into(), &at("h"));
        assert!(fourth > third);
        pings.forget(&a);
        assert_eq!((pings.unheard(&a), pings.answered(fourth)), (None, vec![]));
        let (earlier, later) = (pings.probe(), pings.probe());
        assert_eq!(pings.answered(earlier), [], "the later one was sent for a reason");
        assert_eq!(pings.answered(later), [Confirms::Lives]);
    }

    #[test]
    fn what_comes_over_an_empty_socket_after_a_probe_is_a_sign_of_life() {
        let (pings, before) = (Pings::default(), Instant::now());
        let long_after = || before + std::time::Duration::from_secs(60);
        assert!(!pings.is_alive(long_after), "nobody asked");
        let nonce = pings.probe();
        assert!(!pings.is_alive(|| before), "it may have waited there since before");
        assert!(pings.is_alive(long_after) && !pings.is_alive(long_after), "once");
        assert_eq!(pings.answered(nonce), []);
    }
}
