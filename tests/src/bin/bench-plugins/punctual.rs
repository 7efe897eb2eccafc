//! How late this machine wakes a thread that asked to be woken: what a measurement cannot be finer than, and what tells a
//! stall of the machine from one of the node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const APART: Duration = Duration::from_millis(2);

/// Sleeps and looks at the clock until it is stopped.
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
                let due = Instant::now() + APART;
                thread::sleep(APART);
                late.push(due.elapsed());
            }
            late
        });
        Self { stop, thread }
    }

    /// By how much each sleep was longer than asked for.
    pub fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("a clock without a panic")
    }
}
