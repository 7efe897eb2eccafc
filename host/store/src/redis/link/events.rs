//! What a link reports by itself: the messages of all servers in one place, and what becomes of the
//! connections that carry them.

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

pub(crate) enum LinkEvent {
    /// A message of a channel.
    Message(Message),
    /// So many messages were dropped, because they arrived faster than they were read.
    Missed(u64),
    /// A server was connected again: its subscriptions are gone.
    Reconnected(Server),
    /// Slots of a Cluster have moved.
    Moved,
}

enum Update {
    /// The messages of another connection, which end with it.
    Messages(BoxStream<'static, LinkEvent>),
    Event(LinkEvent),
}

/// Complete from the first subscription on.
pub(crate) struct LinkEvents {
    messages: SelectAll<BoxStream<'static, LinkEvent>>,
    updates: mpsc::UnboundedReceiver<Update>,
}

#[derive(Clone)]
pub(super) struct EventSender(mpsc::UnboundedSender<Update>);

pub(super) fn channel() -> (LinkEvents, EventSender) {
    let (sender, updates) = mpsc::unbounded_channel();
    (LinkEvents { messages: SelectAll::new(), updates }, EventSender(sender))
}

impl LinkEvents {
    /// `None` after the link was dropped.
    pub(crate) async fn next(&mut self) -> Option<LinkEvent> {
        loop {
            tokio::select! {
                Some(event) = self.messages.next(), if !self.messages.is_empty() => return Some(event),
                update = self.updates.recv() => match update? {
                    Update::Messages(stream) => self.messages.push(stream),
                    Update::Event(event) => return Some(event),
                },
            }
        }
    }
}

impl EventSender {
    pub(super) fn send(&self, event: LinkEvent) {
        self.0.send(Update::Event(event)).ok();
    }

    /// Adds the messages of another connection. `received` counts them.
    pub(super) fn add(&self, messages: Receiver<Message>, received: Arc<AtomicU64>) {
        let stream = stream::unfold((messages, received), |(mut messages, received)| async {
            let event = match messages.recv().await {
                Ok(message) => LinkEvent::Message(message),
                Err(RecvError::Lagged(missed)) => LinkEvent::Missed(missed),
                Err(RecvError::Closed) => return None,
            };
            received.fetch_add(1, Ordering::Relaxed);
            Some((event, (messages, received)))
        });
        self.0.send(Update::Messages(stream.boxed())).ok();
    }
}
