//! Batches writes to one key while the previous command for that key is in flight. Concurrent requests for a
//! key become one command, and a key that cannot be reached delays no other key.

use crate::Unavailable;
use futures_util::{FutureExt, future::BoxFuture};
use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_process::lock::LockExt;
use tokio::sync::oneshot;

/// How many entries one command may have.
const MAX_BATCH_ENTRIES: usize = 250;

/// Writes entries of a key. Returns one answer per entry, in their order.
type SendBatch<K, E, A> =
    Box<dyn Fn(K, Vec<E>) -> BoxFuture<'static, Result<Vec<A>, Unavailable>> + Send + Sync>;

type Waiter<A> = oneshot::Sender<Result<A, Unavailable>>;

/// What is waiting for the command in flight, by key.
type Queues<K, E, A> = HashMap<K, Vec<(E, Waiter<A>)>>;

struct BatcherState<K, E, A> {
    send: SendBatch<K, E, A>,
    queues: Mutex<Queues<K, E, A>>,
}

pub(crate) struct Batcher<K, E, A>(Arc<BatcherState<K, E, A>>);

impl<K, E, A> Batcher<K, E, A>
where
    K: Clone + Eq + Hash + Send + 'static,
    E: Send + 'static,
    A: Send + 'static,
{
    pub(crate) fn new<Sent>(send: impl Fn(K, Vec<E>) -> Sent + Send + Sync + 'static) -> Self
    where
        Sent: Future<Output = Result<Vec<A>, Unavailable>> + Send + 'static,
    {
        let send: SendBatch<K, E, A> = Box::new(move |key, entries| Box::pin(send(key, entries)));
        Self(Arc::new(BatcherState { send, queues: Mutex::default() }))
    }

    /// Writes an entry, even if the caller stops waiting for the answer.
    pub(crate) async fn submit(&self, key: K, entry: E) -> Result<A, Unavailable> {
        let (waiter, answer) = oneshot::channel();
        let is_first = {
            let mut queues = self.0.queues();
            let is_first = !queues.contains_key(&key);
            queues.entry(key.clone()).or_default().push((entry, waiter));
            is_first
        };
        if is_first {
            tokio::spawn(run(self.0.clone(), key));
        }
        answer.await.unwrap_or_else(|_| Err(Unavailable("the store is closing".to_owned())))
    }
}

impl<K, E, A> BatcherState<K, E, A> {
    fn queues(&self) -> MutexGuard<'_, Queues<K, E, A>> {
        self.queues.locked()
    }
}

async fn run<K: Clone + Eq + Hash, E, A>(inner: Arc<BatcherState<K, E, A>>, key: K) {
    loop {
        let batch = {
            let mut queues = inner.queues();
            let queue = queues.get_mut(&key).expect("only this task removes the queue");
            if queue.is_empty() {
                queues.remove(&key);
                return;
            }
            let rest = queue.split_off(queue.len().min(MAX_BATCH_ENTRIES));
            mem::replace(queue, rest)
        };
        let (entries, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        // A panic is an error of these entries only. This task must go on, or later entries of the key would
        // wait forever.
        let (sender, sent_to) = (inner.clone(), key.clone());
        let sending = async move { (sender.send)(sent_to, entries).await };
        let sent = AssertUnwindSafe(sending).catch_unwind().await;
        match sent.unwrap_or_else(|_| Err(Unavailable("a task of the store panicked".to_owned()))) {
            Ok(answers) => {
                for (waiter, answer) in waiters.into_iter().zip(answers) {
                    waiter.send(Ok(answer)).ok();
                }
            }
            Err(error) => {
                // Fail what is waiting, too. It would only wait just as long for the same error.
                let waiting = inner.queues().get_mut(&key).map(mem::take).unwrap_or_default();
                for waiter in waiters.into_iter().chain(waiting.into_iter().map(|(_, waiter)| waiter)) {
                    waiter.send(Err(error.clone())).ok();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_panic_fails_only_the_entries_of_its_batch() {
        let batcher = Batcher::new(|_: &str, entries: Vec<u32>| {
            assert_ne!(entries, [1], "on purpose");
            async { Ok(entries) }
        });
        let panicked = batcher.submit("a", 1).await.map_err(|error| error.0);
        assert_eq!(panicked, Err("a task of the store panicked".into()));
        assert_eq!(batcher.submit("a", 2).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_entries_become_one_command_and_keys_are_independent() {
        let sent = Arc::new(Mutex::new(vec![]));
        let log = sent.clone();
        let batcher = Batcher::new(move |key: &str, entries: Vec<u32>| {
            log.lock().unwrap().push((key, entries.clone()));
            async move {
                tokio::time::sleep(Duration::from_secs(if key == "slow" { 60 } else { 1 })).await;
                match key {
                    "bad" => Err(Unavailable("away".to_owned())),
                    _ => Ok(entries),
                }
            }
        });
        let batcher = Arc::new(batcher);
        let submit = |key, n| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(key, n).await.map_err(|error| error.0) })
        };
        let slow = submit("slow", 0);
        let first = submit("a", 1);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let more = [submit("a", 2), submit("a", 3)];
        assert_eq!(first.await.unwrap(), Ok(1));
        for (n, answer) in more.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), Ok(n as u32 + 2));
        }
        assert!(!slow.is_finished());
        let bad = submit("bad", 4);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let worse = submit("bad", 5);
        assert_eq!((bad.await.unwrap(), worse.await.unwrap()), (Err("away".into()), Err("away".into())));
        let sent = sent.lock().unwrap();
        assert_eq!(*sent, [("slow", vec![0]), ("a", vec![1]), ("a", vec![2, 3]), ("bad", vec![4])]);
    }
}
