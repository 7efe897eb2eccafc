//! What nodes say to the model's Redis: each command waits until the schedule says what becomes of it and of its answer.

use crate::{PATIENCE, Unavailable, redis::link::Script};
use fred::types::Value;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// A process of a node: each start is another.
pub(super) type Process = usize;

pub(crate) enum Ask {
    Script(&'static Script, Vec<String>, Vec<String>),
    Command(&'static str, Vec<String>),
}

impl Ask {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Ask::Script(script, ..) => script.name,
            Ask::Command(name, _) => name,
        }
    }
}

pub(crate) struct Message {
    pub process: Process,
    pub ask: Ask,
    pub sent: Instant,
    pub answer: oneshot::Sender<Result<Value, Unavailable>>,
}

#[derive(Default)]
pub(crate) struct Mail {
    /// In the order in which they were sent.
    pub messages: Vec<Message>,
    dead: BTreeSet<Process>,
}

impl Mail {
    /// Somebody waits for its answer.
    pub(crate) fn is_awaited(&self, message: &Message) -> bool {
        !message.answer.is_closed() && !self.dead.contains(&message.process)
    }

    pub(crate) fn kill(&mut self, process: Process) {
        self.dead.insert(process);
    }
}

#[derive(Default)]
pub(crate) struct Network {
    mail: Mutex<Mail>,
    pub sent: Notify,
}

impl Network {
    pub(crate) fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().expect("no code panics while it holds the messages")
    }
}

/// A node's end.
pub(crate) struct Wire {
    pub network: Arc<Network>,
    pub process: Process,
    pub clustered: bool,
}

impl Wire {
    pub(crate) async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        self.ask(Ask::Script(script, keys, texts(arguments))).await
    }

    pub(crate) async fn command(
        &self,
        name: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        self.ask(Ask::Command(name, texts(arguments))).await
    }

    pub(crate) fn is_clustered(&self) -> bool {
        self.clustered
    }

    async fn ask(&self, ask: Ask) -> Result<Value, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let is_dead = {
            let mut mail = self.network.mail();
            let is_dead = mail.dead.contains(&self.process);
            if !is_dead {
                mail.messages.push(Message { process: self.process, ask, sent: Instant::now(), answer });
            }
            is_dead
        };
        if is_dead {
            return std::future::pending().await;
        }
        self.network.sent.notify_one();
        let late = || Unavailable("Redis does not answer".to_owned());
        tokio::time::timeout(PATIENCE, answered)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| Err(late()))
    }
}

fn texts(values: Vec<Value>) -> Vec<String> {
    values.into_iter().map(|value| value.as_string().expect("arguments are texts")).collect()
}
