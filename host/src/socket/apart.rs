//! Two futures of one task, of which the second is polled only when it was woken itself: a connection that is written to
//! a hundred times a second need not look as often whether something came.

use futures_util::task::AtomicWaker;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Ends with whichever ends first. They are pinned by the caller: what is handed to an async function by value is in its
/// future twice.
pub async fn apart<T>(
    mut first: Pin<&mut impl Future<Output = T>>,
    mut second: Pin<&mut impl Future<Output = T>>,
) -> T {
    let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
    let waker = Waker::from(bell.clone());
    poll_fn(move |cx| {
        if let Poll::Ready(end) = first.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        // Before the bell is looked at, so that a ring in between wakes the task.
        bell.task.register(cx.waker());
        match bell.rung.swap(false, Ordering::Acquire) {
            true => second.as_mut().poll(&mut Context::from_waker(&waker)),
            false => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, pin::pin};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_second_is_polled_for_its_own_sake_only() {
        let (one, mut ones) = mpsc::unbounded_channel();
        let (two, mut twos) = mpsc::unbounded_channel::<()>();
        let (polls, heard) = (Cell::new(0), Cell::new(0));
        let first = async {
            while ones.recv().await.is_some() {
                heard.set(heard.get() + 1);
            }
            "first"
        };
        let second = async {
            poll_fn(|cx| {
                polls.set(polls.get() + 1);
                twos.poll_recv(cx)
            })
            .await;
            "second"
        };
        let feed = async {
            for _ in 0..10 {
                one.send(()).unwrap();
                tokio::task::yield_now().await;
            }
            two.send(()).unwrap();
            std::future::pending().await
        };
        let (first, second) = (pin!(first), pin!(second));
        let ended = tokio::select! {
            ended = apart(first, second) => ended,
            () = feed => unreachable!("it goes on"),
        };
        assert_eq!((ended, polls.get(), heard.get()), ("second", 2, 10));
    }
}
