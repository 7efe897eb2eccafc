//! Where plugins are asked whether a connection may come in. A thread and instances of its own, so that a plugin
//! that is busy with its rooms does not keep clients from connecting.

use crate::{
    plugin::{Connecting, Governor, Limits, Mirror, OnFailure, Plugin, RefusalCode},
    protocol::{Code, Refusal},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};

pub struct Lobby {
    questions: mpsc::UnboundedSender<Question>,
    /// How many plugins want to be asked.
    governors: Arc<AtomicUsize>,
}

enum Question {
    Admit(Connecting, oneshot::Sender<Result<Limits, Refusal>>),
    Swap(usize, Option<(Arc<Plugin>, OnFailure)>, oneshot::Sender<Result<(), String>>),
    Reflect(usize, Option<Mirror>),
}

/// By precedence.
type Governors = BTreeMap<usize, Governor>;

impl Lobby {
    /// The thread ends with the lobby.
    pub fn start() -> Self {
        let (questions, mut asked) = mpsc::unbounded_channel();
        let (mut governors, count) = (Governors::new(), Arc::new(AtomicUsize::new(0)));
        let counted = count.clone();
        let serve = move || {
            while let Some(question) = asked.blocking_recv() {
                match question {
                    // Who gave up waiting costs the plugins nothing.
                    Question::Admit(_, reply) if reply.is_closed() => {}
                    Question::Admit(connecting, reply) => drop(reply.send(ask(&mut governors, &connecting))),
                    Question::Swap(index, version, reply) => {
                        let swapped = swap(&mut governors, index, version);
                        counted.store(governors.len(), Ordering::Release);
                        reply.send(swapped).ok();
                    }
                    Question::Reflect(index, mirror) => {
                        governors.get_mut(&index).into_iter().for_each(|g| g.reflect(mirror.clone()));
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("lobby".into())
            .spawn(serve)
            .expect("the system has a thread for the lobby");
        Self { questions, governors: count }
    }

    pub async fn admit(&self, connecting: Connecting) -> Result<Limits, Refusal> {
        if self.governors.load(Ordering::Acquire) == 0 {
            return Ok(Limits::default());
        }
        let (reply, answer) = oneshot::channel();
        self.questions.send(Question::Admit(connecting, reply)).ok();
        answer
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Code::PluginFailed, "this node is stopping; connect again")))
    }

    /// Puts a version in charge of the `index`-th plugin's questions, or none. A version without that hook is not asked.
    pub async fn swap(&self, index: usize, version: Option<(Arc<Plugin>, OnFailure)>) -> Result<(), String> {
        let (reply, swapped) = oneshot::channel();
        self.questions.send(Question::Swap(index, version, reply)).ok();
        swapped.await.unwrap_or_else(|_| Err("this node is stopping".to_owned()))
    }

    pub fn reflect(&self, index: usize, mirror: Option<Mirror>) {
        self.questions.send(Question::Reflect(index, mirror)).ok();
    }
}

fn swap(
    governors: &mut Governors,
    index: usize,
    version: Option<(Arc<Plugin>, OnFailure)>,
) -> Result<(), String> {
    let Some((plugin, on_failure)) = version.filter(|(plugin, _)| plugin.info().hooks.connect) else {
        governors.remove(&index);
        return Ok(());
    };
    match governors.get_mut(&index) {
        Some(governor) => governor.swap(plugin, on_failure),
        None => {
            governors.insert(index, Governor::at_the_door(plugin, on_failure));
            Ok(())
        }
    }
}

fn ask(governors: &mut Governors, connecting: &Connecting) -> Result<Limits, Refusal> {
    let mut narrowest = Limits::default();
    for governor in governors.values_mut() {
        let limits = governor.connect(connecting).map_err(|refusal| {
            let code = match refusal.code {
                RefusalCode::Denied | RefusalCode::Invalid | RefusalCode::TooLarge => Code::Forbidden,
                RefusalCode::Limit => Code::ConnectionLimit,
                RefusalCode::Failed => Code::PluginFailed,
            };
            Refusal::new(code, refusal.message)
        })?;
        narrowest.rooms = least(narrowest.rooms, limits.rooms);
        narrowest.publishes_per_second = least(narrowest.publishes_per_second, limits.publishes_per_second);
        narrowest.message_bytes = least(narrowest.message_bytes, limits.message_bytes);
    }
    Ok(narrowest)
}

fn least(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
