//! The queue in which copies of calls and their answers wait for a candidate. Never blocks whoever makes the calls. Makes
//! none itself, and compares nothing.

use super::copy_budget::{CopiedBytes, CopyBudget, CopyQuota};
use super::mirrored_call::MirroredCall;
use super::observed_call::ObservedCall;
use super::shadow::ComparisonReport;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

/// How many calls may wait for a candidate. Further calls are skipped.
const QUEUE_CAPACITY: usize = 256;

/// The queue into which a governor puts copies of its calls and their answers.
#[derive(Clone)]
pub struct Mirror {
    calls: Sender<QueuedCall>,
    quota: Arc<CopyQuota>,
    report: Arc<Mutex<ComparisonReport>>,
}

/// What a candidate is shown.
pub(super) enum ShadowCall {
    Mirrored(MirroredCall),
    /// A call that was decided without its plugin.
    Observed(Box<ObservedCall>),
}

pub(super) struct QueuedCall {
    pub call: ShadowCall,
    _bytes: CopiedBytes,
}

impl Mirror {
    /// The queue of a candidate, and its end.
    pub(super) fn new(
        budget: &Arc<CopyBudget>,
        report: Arc<Mutex<ComparisonReport>>,
    ) -> (Self, Receiver<QueuedCall>) {
        let (calls, queue) = channel(QUEUE_CAPACITY);
        (Self { calls, quota: budget.quota(), report }, queue)
    }

    /// The comparison so far.
    pub(super) fn report(&self) -> ComparisonReport {
        self.locked_report().clone()
    }

    /// Never blocks: if the queue or the memory for copies is full, the call is skipped and counted, if possible before
    /// it is copied. If the candidate's thread has panicked, the call counts as failed.
    pub(super) fn send(&self, hook: &'static str, call: impl FnOnce() -> ShadowCall) {
        let permit = match self.calls.try_reserve() {
            Ok(permit) => permit,
            Err(TrySendError::Full(())) => return self.locked_report().skipped += 1,
            Err(TrySendError::Closed(())) => {
                return self.locked_report().hooks.entry(hook).or_default().failed += 1;
            }
        };
        let copy = || {
            let call = call();
            Some(QueuedCall { _bytes: self.quota.take(call.size())?, call })
        };
        match self.quota.has_room().then(copy).flatten() {
            Some(call) => permit.send(call),
            None => self.locked_report().skipped += 1,
        }
    }

    /// A candidate's thread that has panicked hurts nobody else.
    fn locked_report(&self) -> MutexGuard<'_, ComparisonReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShadowCall {
    fn size(&self) -> usize {
        match self {
            Self::Mirrored(call) => call.size(),
            Self::Observed(call) => call.size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mirrored_call::MirroredMessage;
    use super::*;
    use switchyard_process::memory::MemoryAccount;

    fn call(bytes: usize) -> ShadowCall {
        let message = MirroredMessage::new("a", "", &vec![b'1'; bytes]);
        ShadowCall::Mirrored(MirroredCall::Deliver(message, vec![]))
    }

    fn mirror() -> (Mirror, Receiver<QueuedCall>) {
        Mirror::new(&CopyBudget::new(MemoryAccount::unlimited()), Arc::default())
    }

    fn counted(mirror: &Mirror) -> (u64, u64) {
        let report = mirror.report();
        (report.skipped, report.hooks.get("deliver").map_or(0, |hook| hook.failed))
    }

    #[test]
    fn a_call_is_skipped_if_the_candidate_is_slow_and_failed_if_its_thread_has_ended() {
        let (mirror, queue) = mirror();
        (0..QUEUE_CAPACITY).for_each(|_| mirror.send("deliver", || call(1)));
        assert_eq!(counted(&mirror), (0, 0));
        mirror.send("deliver", || panic!("the queue is full: nothing is copied"));
        assert_eq!(counted(&mirror), (1, 0));
        drop(queue);
        mirror.send("deliver", || panic!("nobody reads it: nothing is copied"));
        assert_eq!(counted(&mirror), (1, 1));
    }

    #[test]
    fn calls_are_skipped_when_copies_use_too_much() {
        let (mirror, mut queue) = mirror();
        mirror.send("deliver", || call(7 << 20));
        mirror.send("deliver", || call(1 << 20));
        assert_eq!(counted(&mirror), (1, 0));
        assert!(queue.try_recv().is_ok());
        mirror.send("deliver", || call(1 << 20));
        assert_eq!(counted(&mirror), (1, 0), "the first one counts no longer");
    }
}
