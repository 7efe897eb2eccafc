//! Connections on their way in. One task on each core attends to all of them, so that however many come at once, those
//! that are in wait for one task and not for each that is not in yet.

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering},
};
use switchyard_process::vital::VitalTasks;
use tokio::sync::mpsc;

/// Steps until others have their turn: a millisecond or less. Each turn asks the system what came.
const TURN: usize = 16;

/// Ends when it is dropped and all that it was given has ended.
pub(super) struct Opening {
    queues: Vec<mpsc::UnboundedSender<BoxFuture<'static, ()>>>,
    next: AtomicUsize,
}

impl Opening {
    pub(super) fn start(vitals: &VitalTasks) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let queues = (0..cores).map(|_| {
            let (queue, openings) = mpsc::unbounded_channel();
            vitals.spawn("the task of connections on their way in", attend(openings));
            queue
        });
        Self { queues: queues.collect(), next: AtomicUsize::new(0) }
    }

    /// Runs this among the others. A panic is its own.
    pub(super) fn run(&self, opening: impl Future<Output = ()> + Send + 'static) {
        let queue = &self.queues[self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len()];
        let opening = AssertUnwindSafe(opening).catch_unwind().map(drop).boxed();
        queue.send(opening).ok();
    }
}

async fn attend(mut openings: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    let (mut under_way, mut goes_on) = (FuturesUnordered::new(), true);
    let mut steps = 0_usize;
    while goes_on || !under_way.is_empty() {
        tokio::select! {
            opening = openings.recv(), if goes_on => match opening {
                Some(opening) => under_way.push(opening),
                None => goes_on = false,
            },
            Some(()) = under_way.next() => {}
        }
        steps += 1;
        if steps.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{sync::oneshot, time::timeout};

    #[tokio::test]
    async fn one_that_panics_or_never_ends_delays_no_other() {
        let opening = Opening::start(&VitalTasks::default());
        for _ in 0..100 {
            opening.run(async { panic!("on purpose") });
            opening.run(std::future::pending());
        }
        let (opened, is_open) = oneshot::channel();
        opening.run(async { opened.send(()).unwrap() });
        timeout(Duration::from_secs(10), is_open).await.expect("it had its turn").unwrap();
    }
}
