//! The ticks that calls are timed by. They cost a core a fiftieth of its time, and so there are none while no call runs.

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

/// How often running guests are reminded of their deadline.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks until it is dropped, by a thread of its own.
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    resting: AtomicBool,
    ended: AtomicBool,
}

/// A call that runs.
pub(crate) struct Running<'a>(&'a Shared);

impl Clock {
    pub(crate) fn start(tick: impl Fn() + Send + 'static, vitals: &VitalTasks) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let ticking = shared.clone();
        let thread = vitals.spawn_thread("plugin-deadlines".into(), move || {
            while !ticking.ended.load(SeqCst) {
                match ticking.running.load(SeqCst) {
                    0 => ticking.rest(),
                    _ => tick(),
                }
                thread::sleep(TICK);
            }
        })?;
        Ok(Self { shared, thread })
    }

    /// Ticks, the first within twice [`TICK`], while what this gives is held.
    pub(crate) fn run(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, SeqCst);
        if self.shared.resting.load(SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }
}

impl Shared {
    /// Until a call begins. Who begins one either sees that this rests, or is seen here.
    fn rest(&self) {
        self.resting.store(true, SeqCst);
        while self.running.load(SeqCst) == 0 && !self.ended.load(SeqCst) {
            thread::park();
        }
        self.resting.store(false, SeqCst);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn ticks_while_a_call_runs_and_ends_with_its_owner() {
        let (ticked, ticks) = mpsc::channel();
        let clock = Clock::start(move || ticked.send(()).unwrap(), &VitalTasks::default()).unwrap();
        for _ in 0..3 {
            let _running = clock.run();
            ticks.recv_timeout(PATIENCE).unwrap();
            ticks.recv_timeout(PATIENCE).unwrap();
        }
        // Another 50 would be seen where it went on.
        while ticks.recv_timeout(TICK * 50).is_ok() {}
        assert!(clock.shared.resting.load(SeqCst));
        drop(clock);
        assert_eq!(
            ticks.recv_timeout(PATIENCE),
            Err(mpsc::RecvTimeoutError::Disconnected),
            "the thread is gone"
        );
    }
}
