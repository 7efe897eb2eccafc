//! What a link tells by itself: messages of all servers in one place, and what becomes of the connections that carry them.

use fred::types::{Message, config::Server};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc,
};

pub(crate) enum Signal {
    Message(Message),
    /// So many messages came faster than they were taken.
    Missed(u64),
    /// A server is connected anew: what was subscribed there is not any more.
    Reconnected(Server),
    /// Slots of a Cluster have moved.
    Moved,
}

enum News {
    /// Messages of a connection, which end with it.
    Messages(BoxStream<'static, Signal>),
    Signal(Signal),
}

/// Complete from the first subscription on.
pub(crate) struct Signals {
    messages: SelectAll<BoxStream<'static, Signal>>,
    news: mpsc::UnboundedReceiver<News>,
}

#[derive(Clone)]
pub(super) struct Publisher(mpsc::UnboundedSender<News>);

pub(super) fn channel() -> (Signals, Publisher) {
    let (publisher, news) = mpsc::unbounded_channel();
    (Signals { messages: SelectAll::new(), news }, Publisher(publisher))
}

impl Signals {
    /// `None`: nobody tells anything any more.
    pub(crate) async fn next(&mut self) -> Option<Signal> {
        loop {
            tokio::select! {
                Some(signal) = self.messages.next(), if !self.messages.is_empty() => return Some(signal),
                news = self.news.recv() => match news? {
                    News::Messages(stream) => self.messages.push(stream),
                    News::Signal(signal) => return Some(signal),
                },
            }
        }
    }
}

impl Publisher {
    pub(super) fn send(&self, signal: Signal) {
        self.0.send(News::Signal(signal)).ok();
    }

    /// From now on messages of another connection come, too; `heard` counts them.
    pub(super) fn add(&self, messages: Receiver<Message>, heard: Arc<AtomicU64>) {
        let stream = stream::unfold((messages, heard), |(mut messages, heard)| async {
            let signal = match messages.recv().await {
                Ok(message) => Signal::Message(message),
                Err(RecvError::Lagged(missed)) => Signal::Missed(missed),
                Err(RecvError::Closed) => return None,
            };
            heard.fetch_add(1, Ordering::Relaxed);
            Some((signal, (messages, heard)))
        });
        self.0.send(News::Messages(stream.boxed())).ok();
    }
}
