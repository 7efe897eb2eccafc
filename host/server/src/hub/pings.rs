//! Pings that confirm something: a client that answers one has read everything that was sent before it. Does
//! not send the pings of the heartbeat.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

/// The confirming pings of one connection. Three words in size until one is sent, because most connections
/// never need one.
#[derive(Default)]
pub(crate) struct Pings {
    state: Mutex<Option<Box<SentPings>>>,
    /// Whether the answer to a probe is awaited.
    is_probing: AtomicBool,
}

#[derive(Default)]
struct SentPings {
    /// The nonce of the last ping. It keeps rising for as long as the connection lives, so a late answer
    /// confirms nothing newer.
    last_nonce: u64,
    /// By rising nonce. At most one for each room, and one probe.
    unanswered: Vec<(u64, Confirmation)>,
    /// When the last probe was sent.
    probed: Option<Instant>,
}

/// What the answer to a ping confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// The client knows that a room continues after `position`. `before` is the last epoch that it
    /// has certainly received.
    EpochChange { room: RoomName, before: Arc<str>, position: Position },
    /// The client is alive, and this connection is the one that it uses.
    Alive,
}

impl Confirmation {
    fn is_about(&self, name: &RoomName) -> bool {
        matches!(self, Self::EpochChange { room, .. } if room == name)
    }
}

impl Pings {
    /// The nonce for a ping whose answer confirms that the client knows that a room continues after `position`.
    pub(crate) fn epoch_change(&self, room: &RoomName, before: &Arc<str>, position: &Position) -> u64 {
        let mut state = self.state.locked();
        let sent = state.get_or_insert_default();
        // As long as an earlier change is not confirmed, the client may still be in the epoch before it.
        let earlier = sent.unanswered.iter().position(|(_, confirmation)| confirmation.is_about(room));
        let before = match earlier.map(|n| sent.unanswered.remove(n)) {
            Some((_, Confirmation::EpochChange { before, .. })) => before,
            _ => before.clone(),
        };
        sent.last_nonce += 1;
        let confirmation =
            Confirmation::EpochChange { room: room.clone(), before, position: position.clone() };
        sent.unanswered.push((sent.last_nonce, confirmation));
        sent.last_nonce
    }

    /// The nonce for a ping whose answer confirms that the client is alive.
    pub(crate) fn probe(&self) -> u64 {
        let mut state = self.state.locked();
        let sent = state.get_or_insert_default();
        sent.unanswered.retain(|(_, confirmation)| *confirmation != Confirmation::Alive);
        sent.last_nonce += 1;
        sent.unanswered.push((sent.last_nonce, Confirmation::Alive));
        sent.probed = Some(Instant::now());
        self.is_probing.store(true, Ordering::Release);
        sent.last_nonce
    }

    /// Call this when something is received. `emptied` returns when the socket was last read until it was
    /// empty. If that was after the probe, the client sent something after the probe, so it is alive. This
    /// then returns `true`, once. It works even with clients that do not answer pings.
    pub(crate) fn confirm_probe(&self, emptied: impl FnOnce() -> Instant) -> bool {
        if !self.is_probing.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state.locked();
        let Some(sent) = &mut *state else { return false };
        let is_alive = sent.probed.is_some_and(|probed| emptied() > probed);
        if is_alive {
            sent.unanswered.retain(|(_, confirmation)| *confirmation != Confirmation::Alive);
            self.is_probing.store(false, Ordering::Release);
        }
        is_alive
    }

    /// What the answer to a ping confirms. It answers all earlier pings as well, because a client may answer
    /// only the last of several.
    pub(crate) fn answered(&self, nonce: u64) -> Vec<Confirmation> {
        let mut state = self.state.locked();
        let Some(sent) = &mut *state else { return vec![] };
        let count = sent.unanswered.partition_point(|(sent_nonce, _)| *sent_nonce <= nonce);
        let confirmed: Vec<_> =
            sent.unanswered.drain(..count).map(|(_, confirmation)| confirmation).collect();
        if confirmed.contains(&Confirmation::Alive) {
            self.is_probing.store(false, Ordering::Release);
        }
        confirmed
    }

    /// The last epoch of a room that the client has certainly received. `None` if that is the current one.
    pub(crate) fn unconfirmed_epoch(&self, room: &RoomName) -> Option<Arc<str>> {
        let state = self.state.locked();
        let mut unanswered = state.iter().flat_map(|sent| &sent.unanswered);
        unanswered.find_map(|(_, confirmation)| match confirmation {
            Confirmation::EpochChange { room: name, before, position }
                if name == room && *before != position.epoch =>
            {
                Some(before.clone())
            }
            _ => None,
        })
    }

    /// Call this when the client has left the room, or is known in another way to have received the room's
    /// epoch.
    pub(crate) fn forget(&self, room: &RoomName) {
        if let Some(sent) = &mut *self.state.locked() {
            sent.unanswered.retain(|(_, confirmation)| !confirmation.is_about(room));
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
        assert_eq!((pings.unconfirmed_epoch(&a), pings.answered(7)), (None, vec![]));
        let first = pings.epoch_change(&a, &"e".into(), &at("f"));
        let second = pings.epoch_change(&b, &"x".into(), &at("y"));
        let third = pings.epoch_change(&a, &"f".into(), &at("g"));
        assert_eq!(pings.answered(first), [], "the epoch changed again after it");
        assert_eq!(pings.unconfirmed_epoch(&a).as_deref(), Some("e"), "nothing later is confirmed");
        let change = |room, before: &str, to| Confirmation::EpochChange {
            room,
            before: before.into(),
            position: at(to),
        };
        assert_eq!(pings.answered(second), [change(b, "x", "y")]);
        assert_eq!(pings.answered(third), [change(a.clone(), "e", "g")]);
        assert_eq!((pings.unconfirmed_epoch(&a), pings.answered(third)), (None, vec![]));
        let fourth = pings.epoch_change(&a, &"g".into(), &at("h"));
        assert!(fourth > third);
        pings.forget(&a);
        assert_eq!((pings.unconfirmed_epoch(&a), pings.answered(fourth)), (None, vec![]));
        let (earlier, later) = (pings.probe(), pings.probe());
        assert_eq!(pings.answered(earlier), [], "only the later probe counts");
        assert_eq!(pings.answered(later), [Confirmation::Alive]);
    }

    #[test]
    fn anything_that_arrives_on_an_empty_socket_after_a_probe_confirms_it() {
        let (pings, before) = (Pings::default(), Instant::now());
        let long_after = || before + std::time::Duration::from_secs(60);
        assert!(!pings.confirm_probe(long_after), "no probe was sent");
        let nonce = pings.probe();
        assert!(!pings.confirm_probe(|| before), "it may have been sent before the probe");
        assert!(pings.confirm_probe(long_after) && !pings.confirm_probe(long_after), "once");
        assert_eq!(pings.answered(nonce), []);
    }
}
