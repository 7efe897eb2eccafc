//! A member that is being brought up to date: what is kept back for it until then, within bounds.

use super::Connection;
use crate::{plugin::FilterId, protocol::Publication};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Messages kept back for one member that catches up. Beyond this, or beyond a quarter of its outbox (so that
/// it takes them all at once next to half an outbox of replay), the replay goes on from history instead.
pub const KEPT_BACK: usize = 256;

/// The newest offset that a member has seen or lost, as its replay tells and its room has to know when another seat takes the
/// place of this one.
#[derive(Clone, Debug)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn new(offset: u64) -> Self {
        Self(Arc::new(offset.into()))
    }

    pub fn at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, offset: u64) {
        self.0.store(offset, Ordering::Relaxed);
    }
}

pub struct CatchUp {
    pub connection: Arc<Connection>,
    pub filter: Option<FilterId>,
    /// What came after this offset is kept back.
    pub from: u64,
    pub progress: Progress,
    kept_back: Vec<Arc<Publication>>,
    bytes: usize,
    /// More came than is kept back; what is kept is useless.
    pub overflowed: bool,
}

impl CatchUp {
    pub fn new(connection: Arc<Connection>, filter: Option<FilterId>, from: u64, progress: Progress) -> Self {
        Self { connection, filter, from, progress, kept_back: vec![], bytes: 0, overflowed: false }
    }

    /// Keeps a message back, if it passes. One whose filter failed goes back to history, where the filter is asked
    /// again.
    pub fn take(&mut self, message: &Arc<Publication>, passed: Option<bool>) {
        match passed {
            Some(false) => {}
            _ if self.overflowed => {}
            Some(true) if self.has_room_for(message) => {
                self.bytes += message.frame().len();
                self.kept_back.push(message.clone());
            }
            _ => self.overflow(),
        }
    }

    /// What is kept back is not all that came: the replay goes on from history.
    pub fn overflow(&mut self) {
        self.overflowed = true;
        (self.kept_back, self.bytes) = (vec![], 0);
    }

    pub fn hand_over(&self) {
        for message in &self.kept_back {
            self.connection.outbox.push(message.frame().clone());
        }
    }

    /// For a member that joins anew: hands over what is kept back, if all before it was sent; otherwise gives the
    /// offset after which it has to be replayed.
    pub fn settle_or_resume(self) -> Option<u64> {
        let offset = self.progress.at();
        if self.overflowed || offset < self.from {
            return Some(offset);
        }
        self.hand_over();
        None
    }

    fn has_room_for(&self, message: &Publication) -> bool {
        let bytes = self.bytes + message.frame().len();
        self.kept_back.len() < KEPT_BACK && bytes <= self.connection.outbox.limit() / 4
    }
}
