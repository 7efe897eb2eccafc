//! The thread that interrupts running calls once per tick, so that they can check their deadline. It takes
//! about 2 % of a core, and therefore sleeps while no call is running.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};
use switchyard_process::vital::VitalTasks;

/// How often running calls are interrupted to check their deadline.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Owns the ticking thread, which ends when this is dropped.
pub(crate) struct Ticker {
    state: Arc<TickerState>,
    thread: Thread,
}

#[derive(Default)]
struct TickerState {
    running_calls: AtomicUsize,
    is_parked: AtomicBool,
    has_ended: AtomicBool,
}

/// Keeps the ticker ticking until it is dropped.
pub(crate) struct RunningCall<'a>(&'a TickerState);

impl Ticker {
    pub(crate) fn start(tick: impl Fn() + Send + 'static, vitals: &VitalTasks) -> io::Result<Self> {
        let state = Arc::<TickerState>::default();
        let of_thread = state.clone();
        let thread = vitals.spawn_thread("plugin-deadlines".into(), move || {
            while !of_thread.has_ended.load(SeqCst) {
                match of_thread.running_calls.load(SeqCst) {
                    0 => of_thread.park(),
                    _ => tick(),
                }
                thread::sleep(TICK);
            }
        })?;
        Ok(Self { state, thread })
    }

    /// Ticks while the returned guard is held. The first tick comes within twice [`TICK`].
    pub(crate) fn start_call(&self) -> RunningCall<'_> {
        self.state.running_calls.fetch_add(1, SeqCst);
        if self.state.is_parked.load(SeqCst) {
            self.thread.unpark();
        }
        RunningCall(&self.state)
    }
}

impl TickerState {
    /// Waits until a call starts. Either that call sees `is_parked`, or this thread sees `running_calls`.
    fn park(&self) {
        self.is_parked.store(true, SeqCst);
        while self.running_calls.load(SeqCst) == 0 && !self.has_ended.load(SeqCst) {
            thread::park();
        }
        self.is_parked.store(false, SeqCst);
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        self.0.running_calls.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.has_ended.store(true, SeqCst);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const TEST_TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn it_ticks_only_while_a_call_runs_and_ends_with_its_owner() {
        let (ticked, ticks) = mpsc::channel();
        let ticker = Ticker::start(move || ticked.send(()).unwrap(), &VitalTasks::default()).unwrap();
        for _ in 0..3 {
            let _running = ticker.start_call();
            ticks.recv_timeout(TEST_TIMEOUT).unwrap();
            ticks.recv_timeout(TEST_TIMEOUT).unwrap();
        }
        // Fifty ticks of silence: it has stopped ticking.
        while ticks.recv_timeout(TICK * 50).is_ok() {}
        assert!(ticker.state.is_parked.load(SeqCst));
        drop(ticker);
        assert_eq!(
            ticks.recv_timeout(TEST_TIMEOUT),
            Err(mpsc::RecvTimeoutError::Disconnected),
            "the thread is gone"
        );
    }
}
