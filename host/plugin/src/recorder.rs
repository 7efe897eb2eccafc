//! Recording the calls of a plugin while somebody reads them: the governors put copies into a bounded queue. Knows
//! neither how long to record nor for whom.

use super::copy_budget::{CopiedBytes, CopyBudget, CopyQuota};
use super::load::Plugin;
use super::mirrored_call::MirroredCall;
use super::recorded_call::RecordedCall;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use switchyard_process::lock::LockExt;
use switchyard_protocol::unix_ms;
use tokio::sync::mpsc;

/// How many calls may wait to be read. Further calls are skipped.
const QUEUE_CAPACITY: usize = 1024;

/// Whether a version of a plugin is being recorded, and where to.
#[derive(Default)]
pub(super) struct Recorder {
    /// Read with each call, so that a version that is not being recorded pays for nothing else.
    is_recording: AtomicBool,
    queue: Mutex<Option<Queue>>,
    /// Whether another version is active now. Changes only under the lock of the queue.
    is_replaced: AtomicBool,
}

struct Queue {
    calls: mpsc::Sender<QueuedCall>,
    quota: Arc<CopyQuota>,
    skipped: Arc<AtomicU64>,
}

struct QueuedCall {
    time: u64,
    call: MirroredCall,
    _copied: CopiedBytes,
}

/// The calls of one version of a plugin, from now on. Recording ends when this is dropped.
pub struct Recording {
    plugin: Arc<Plugin>,
    calls: mpsc::Receiver<QueuedCall>,
    skipped: Arc<AtomicU64>,
    has_data: bool,
}

impl Recorder {
    /// Never blocks: if the queue is full or memory is short, the call is skipped and counted.
    pub(super) fn record(&self, call: impl FnOnce() -> MirroredCall) {
        if !self.is_recording.load(Ordering::Relaxed) {
            return;
        }
        let queue = self.queue.locked();
        let Some(Queue { calls, quota, skipped }) = &*queue else { return };
        let skip = || _ = skipped.fetch_add(1, Ordering::Relaxed);
        let Ok(permit) = calls.try_reserve() else { return skip() };
        if !quota.has_room() {
            return skip();
        }
        let call = call();
        let Some(copied) = quota.take(call.size()) else { return skip() };
        permit.send(QueuedCall { time: unix_ms(), call, _copied: copied });
    }

    /// Ends the recording after the calls so far.
    fn end(&self) {
        self.is_recording.store(false, Ordering::Relaxed);
        *self.queue.locked() = None;
    }

    /// Ends the recording, because another version has become active. One that begins after that ends at once, until
    /// this version is active again.
    pub(super) fn set_replaced(&self, is_replaced: bool) {
        let mut queue = self.queue.locked();
        self.is_replaced.store(is_replaced, Ordering::Relaxed);
        if is_replaced {
            self.is_recording.store(false, Ordering::Relaxed);
            *queue = None;
        }
    }
}

impl Recording {
    /// Starts to record the calls of a version. Messages have their data only if `has_data`. `budget` bounds what waits
    /// to be read. `None` if it is being recorded already.
    pub fn start(plugin: Arc<Plugin>, has_data: bool, budget: &Arc<CopyBudget>) -> Option<Self> {
        let (sender, calls) = mpsc::channel(QUEUE_CAPACITY);
        let skipped: Arc<AtomicU64> = Arc::default();
        let recorder = plugin.recorder();
        let mut queue = recorder.queue.locked();
        if queue.is_some() {
            return None;
        }
        if !recorder.is_replaced.load(Ordering::Relaxed) {
            *queue = Some(Queue { calls: sender, quota: budget.quota(), skipped: skipped.clone() });
            recorder.is_recording.store(true, Ordering::Relaxed);
        }
        drop(queue);
        Some(Self { plugin, calls, skipped, has_data })
    }

    /// The version that is recorded.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The next call. `None` when another version has become active.
    pub async fn next(&mut self) -> Option<RecordedCall> {
        let QueuedCall { time, call, .. } = self.calls.recv().await?;
        Some(RecordedCall::new(time, call, self.has_data))
    }

    /// How many calls were skipped, because they came faster than they were read, or memory was short.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Another recording can begin only after this one has ended, so this ends no other.
        if !self.calls.is_closed() {
            self.plugin.recorder().end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mirrored_call::MirroredMessage;
    use super::*;
    use switchyard_process::memory::MemoryAccount;

    fn recorder() -> (Recorder, mpsc::Receiver<QueuedCall>, Arc<AtomicU64>) {
        let (calls, queued) = mpsc::channel(2);
        let (quota, skipped) = (CopyBudget::new(MemoryAccount::unlimited()).quota(), Arc::default());
        let queue = Mutex::new(Some(Queue { calls, quota, skipped: Arc::clone(&skipped) }));
        let is_replaced = AtomicBool::new(false);
        (Recorder { is_recording: AtomicBool::new(true), queue, is_replaced }, queued, skipped)
    }

    fn call(bytes: usize) -> MirroredCall {
        MirroredCall::Deliver(MirroredMessage::new("a", "", &vec![b'1'; bytes]), vec![])
    }

    #[test]
    fn calls_beyond_the_queue_are_skipped_without_a_copy() {
        let (recorder, mut queued, skipped) = recorder();
        recorder.record(|| call(1));
        recorder.record(|| call(1));
        recorder.record(|| panic!("the queue is full"));
        assert_eq!(skipped.load(Ordering::Relaxed), 1);
        assert!(queued.try_recv().is_ok());
        recorder.record(|| call(1));
        assert_eq!(skipped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_sum_of_queued_bytes_is_bounded() {
        let (recorder, _queued, skipped) = recorder();
        recorder.record(|| call(4 << 20));
        recorder.record(|| call(4 << 20));
        assert_eq!(skipped.load(Ordering::Relaxed), 1);
    }

    /// Once, a recording that began while another version became active went on for ever, and saw no calls.
    #[test]
    fn a_version_that_was_replaced_is_not_recorded() {
        let (recorder, mut queued, _) = recorder();
        recorder.set_replaced(true);
        assert!(matches!(queued.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert!(recorder.is_replaced.load(Ordering::Relaxed) && recorder.queue.locked().is_none());
        recorder.record(|| panic!("nobody records"));
        recorder.set_replaced(false);
        assert!(!recorder.is_replaced.load(Ordering::Relaxed));
    }

    #[test]
    fn nothing_is_copied_after_the_end() {
        let (recorder, mut queued, _) = recorder();
        recorder.record(|| call(1));
        recorder.end();
        recorder.record(|| panic!("nobody records"));
        assert!(queued.try_recv().is_ok());
        assert!(matches!(queued.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
