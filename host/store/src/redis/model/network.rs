//! The network between nodes and the model's Redis: each command waits until the schedule decides what
//! happens to it and to its answer.

use crate::{
    RESPONSE_TIMEOUT, Unavailable,
    redis::{link::Script, timeouts::no_answer},
};
use fred::types::Value;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_process::lock::LockExt;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// Identifies a process of a node. Each start of a node is another process.
pub(super) type ProcessId = usize;

pub(crate) enum RedisCall {
    Script(&'static Script, Vec<String>, Vec<String>),
    Command(&'static str, Vec<String>),
}

impl RedisCall {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            RedisCall::Script(script, ..) => script.name,
            RedisCall::Command(name, _) => name,
        }
    }
}

pub(crate) struct InFlightCall {
    pub process: ProcessId,
    pub call: RedisCall,
    pub sent: Instant,
    pub answer: oneshot::Sender<Result<Value, Unavailable>>,
}

#[derive(Default)]
pub(crate) struct CallQueue {
    /// In the order in which nodes sent them.
    pub messages: Vec<InFlightCall>,
    dead: BTreeSet<ProcessId>,
}

impl CallQueue {
    /// Whether a node waits for the answer.
    pub(crate) fn is_awaited(&self, message: &InFlightCall) -> bool {
        !message.answer.is_closed() && !self.dead.contains(&message.process)
    }

    pub(crate) fn kill(&mut self, process: ProcessId) {
        self.dead.insert(process);
    }
}

#[derive(Default)]
pub(crate) struct ModelNetwork {
    calls: Mutex<CallQueue>,
    pub sent: Notify,
}

impl ModelNetwork {
    pub(crate) fn calls(&self) -> MutexGuard<'_, CallQueue> {
        self.calls.locked()
    }
}

/// A node's end of the network.
pub(crate) struct NetworkEnd {
    pub network: Arc<ModelNetwork>,
    pub process: ProcessId,
    pub clustered: bool,
}

impl NetworkEnd {
    pub(crate) async fn run(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        self.send(RedisCall::Script(script, keys, texts(arguments))).await
    }

    pub(crate) async fn command(
        &self,
        name: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Value, Unavailable> {
        self.send(RedisCall::Command(name, texts(arguments))).await
    }

    pub(crate) fn is_clustered(&self) -> bool {
        self.clustered
    }

    async fn send(&self, call: RedisCall) -> Result<Value, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let is_dead = {
            let mut queue = self.network.calls();
            let is_dead = queue.dead.contains(&self.process);
            if !is_dead {
                queue.messages.push(InFlightCall {
                    process: self.process,
                    call,
                    sent: Instant::now(),
                    answer,
                });
            }
            is_dead
        };
        if is_dead {
            return std::future::pending().await;
        }
        self.network.sent.notify_one();
        tokio::time::timeout(RESPONSE_TIMEOUT, answered)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| Err(no_answer()))
    }
}

fn texts(values: Vec<Value>) -> Vec<String> {
    values.into_iter().map(|value| value.as_string().expect("arguments are texts")).collect()
}
