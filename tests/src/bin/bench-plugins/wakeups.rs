//! Measures how late this machine wakes a sleeping thread. It limits the precision of other measurements, and
//! tells a stall of the machine from a stall of the node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const SLEEP_TIME: Duration = Duration::from_millis(2);

/// Sleeps and reads the clock repeatedly until it is stopped.
pub struct Punctual {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Punctual {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut late = vec![];
            while !stopped.load(Relaxed) {
                let due = Instant::now() + SLEEP_TIME;
                thread::sleep(SLEEP_TIME);
                late.push(due.elapsed());
            }
            late
        });
        Self { stop, thread }
    }

    /// How much longer each sleep was than requested.
    pub fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("a clock without a panic")
    }
}
