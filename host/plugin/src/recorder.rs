//! Recording the calls of a plugin while somebody reads them: the governors put copies into a bounded queue. Knows
//! neither how long to record nor for whom.

use super::copy_budget::{CopiedBytes, CopyBudget};
use super::load::Plugin;
use super::mirrored_call::MirroredCall;
use super::recorded_call::RecordedCall;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use switchyard_process::lock::LockExt;
use switchyard_protocol::unix_ms;
use tokio::sync::mpsc;

/// How many calls may wait to be read, and how many bytes they may have together. Further calls are skipped.
const QUEUE_CAPACITY: usize = 1024;
const MAX_QUEUED_BYTES: usize = 8 << 20;

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
    usage: Arc<Usage>,
    budget: Arc<CopyBudget>,
}

struct QueuedCall {
    time: u64,
    call: MirroredCall,
    bytes: usize,
    _copied: CopiedBytes,
}

#[derive(Default)]
struct Usage {
    queued_bytes: AtomicUsize,
    skipped: AtomicU64,
}

/// The calls of one version of a plugin, from now on. Recording ends when this is dropped.
pub struct Recording {
    plugin: Arc<Plugin>,
    calls: mpsc::Receiver<QueuedCall>,
    usage: Arc<Usage>,
    has_data: bool,
}

impl Recorder {
    /// Never blocks: if the queue is full, the call is skipped and counted.
    pub(super) fn record(&self, call: impl FnOnce() -> MirroredCall) {
        if !self.is_recording.load(Ordering::Relaxed) {
            return;
        }
        let queue = self.queue.locked();
        let Some(Queue { calls, usage, budget }) = &*queue else { return };
        let skip = || _ = usage.skipped.fetch_add(1, Ordering::Relaxed);
        let Ok(place) = calls.try_reserve() else { return skip() };
        if !budget.has_room() {
            return skip();
        }
        let call = call();
        let bytes = call.size();
        // Only this adds to the sum, under the lock.
        if usage.queued_bytes.load(Ordering::Relaxed) + bytes > MAX_QUEUED_BYTES {
            return skip();
        }
        let Some(copied) = budget.take(bytes) else { return skip() };
        usage.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        place.send(QueuedCall { time: unix_ms(), call, bytes, _copied: copied });
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
    pub fn start(plugin: Arc<Plugin>, has_data: bool, budget: Arc<CopyBudget>) -> Option<Self> {
        let (sender, calls) = mpsc::channel(QUEUE_CAPACITY);
        let usage: Arc<Usage> = Arc::default();
        let recorder = plugin.recorder();
        let mut queue = recorder.queue.locked();
        if queue.is_some() {
            return None;
        }
        if !recorder.is_replaced.load(Ordering::Relaxed) {
            *queue = Some(Queue { calls: sender, usage: usage.clone(), budget });
            recorder.is_recording.store(true, Ordering::Relaxed);
        }
        drop(queue);
        Some(Self { plugin, calls, usage, has_data })
    }

    /// The version that is recorded.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The next call. `None` when another version has become active.
    pub async fn next(&mut self) -> Option<RecordedCall> {
        let QueuedCall { time, call, bytes, .. } = self.calls.recv().await?;
        self.usage.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(RecordedCall::new(time, call, self.has_data))
    }

    /// How many calls were skipped, because they came faster than they were read.
    pub fn skipped(&self) -> u64 {
        self.usage.skipped.load(Ordering::Relaxed)
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

    fn recorder() -> (Recorder, mpsc::Receiver<QueuedCall>, Arc<Usage>) {
        let (calls, queued) = mpsc::channel(2);
        let usage: Arc<Usage> = Arc::default();
        let budget = CopyBudget::new(MemoryAccount::unlimited());
        let queue = Mutex::new(Some(Queue { calls, usage: usage.clone(), budget }));
        let is_replaced = AtomicBool::new(false);
        (Recorder { is_recording: AtomicBool::new(true), queue, is_replaced }, queued, usage)
    }

    fn call(bytes: usize) -> MirroredCall {
        MirroredCall::Deliver(MirroredMessage::new("a", "", &vec![b'1'; bytes]), vec![])
    }

    #[test]
    fn calls_beyond_the_queue_are_skipped_without_a_copy() {
        let (recorder, mut queued, usage) = recorder();
        recorder.record(|| call(1));
        recorder.record(|| call(1));
        recorder.record(|| panic!("the queue is full"));
        assert_eq!(usage.skipped.load(Ordering::Relaxed), 1);
        assert!(queued.try_recv().is_ok());
        recorder.record(|| call(1));
        assert_eq!(usage.skipped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_sum_of_queued_bytes_is_bounded() {
        let (recorder, _queued, usage) = recorder();
        recorder.record(|| call(MAX_QUEUED_BYTES / 2));
        recorder.record(|| call(MAX_QUEUED_BYTES / 2));
        assert_eq!(usage.skipped.load(Ordering::Relaxed), 1);
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
