//! Where plugins are asked whether a connection may come in. A thread and instances of its own, so that a plugin
//! that is busy with its rooms does not keep clients from connecting.

use super::{no_thread, refusals::wire_refusal, wards::conflict};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};
use switchyard_plugin::{ConnectRequest, Governor, Limits, Mirror, OnFailure, Plugin, PluginFunction};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::sync::{mpsc, oneshot};

pub(super) struct Lobby {
    /// There is a thread from the first version on that wants to be asked.
    questions: OnceLock<mpsc::UnboundedSender<Question>>,
    vitals: VitalTasks,
    /// How many plugins want to be asked.
    governors: Arc<AtomicUsize>,
}

enum Question {
    Admit(ConnectRequest, oneshot::Sender<Result<Limits, Refusal>>),
    Swap(usize, Option<(Arc<Plugin>, OnFailure)>, oneshot::Sender<Result<(), String>>),
    Reflect(usize, Option<Mirror>),
}

/// By precedence.
type Governors = BTreeMap<usize, Governor>;

impl Lobby {
    pub(super) fn new(vitals: VitalTasks) -> Self {
        Self { questions: OnceLock::new(), vitals, governors: Arc::default() }
    }

    /// Starts the thread, which ends with the lobby.
    fn open(&self) -> io::Result<mpsc::UnboundedSender<Question>> {
        let (questions, mut asked) = mpsc::unbounded_channel();
        let (mut governors, counted) = (Governors::new(), self.governors.clone());
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
                        governors.get_mut(&index).into_iter().for_each(|g| g.set_mirror(mirror.clone()));
                    }
                }
            }
        };
        self.vitals.spawn_thread("lobby".into(), serve)?;
        Ok(questions)
    }

    pub(super) async fn admit(&self, connecting: ConnectRequest) -> Result<Limits, Refusal> {
        if self.governors.load(Ordering::Acquire) == 0 {
            return Ok(Limits::default());
        }
        let Some(questions) = self.questions.get() else { return Ok(Limits::default()) };
        let (reply, answer) = oneshot::channel();
        questions.send(Question::Admit(connecting, reply)).ok();
        answer.await.unwrap_or_else(|_| {
            Err(Refusal::new(ErrorCode::PluginFailed, "this node is stopping; connect again"))
        })
    }

    /// Puts a version in charge of the `index`-th plugin's questions, or none. A version without that hook is not asked.
    pub(super) async fn swap(
        &self,
        index: usize,
        version: Option<(Arc<Plugin>, OnFailure)>,
    ) -> Result<(), Refusal> {
        let wants = version.as_ref().is_some_and(|(plugin, _)| plugin.info().hooks.connect);
        let questions = match self.questions.get() {
            Some(questions) => questions,
            None if !wants => return Ok(()),
            None => {
                let opened = self.open().map_err(|error| no_thread("of connections", error))?;
                // Another plugin may have been quicker; then this thread ends.
                self.questions.get_or_init(|| opened)
            }
        };
        let (reply, swapped) = oneshot::channel();
        questions.send(Question::Swap(index, version, reply)).ok();
        swapped.await.unwrap_or_else(|_| Err("this node is stopping".to_owned())).map_err(conflict)
    }

    pub(super) fn reflect(&self, index: usize, mirror: Option<Mirror>) {
        if let Some(questions) = self.questions.get() {
            questions.send(Question::Reflect(index, mirror)).ok();
        }
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
        Some(governor) => governor.swap(plugin, on_failure).map_err(|error| error.to_string()),
        None => {
            governors.insert(index, Governor::for_connections(plugin, on_failure));
            Ok(())
        }
    }
}

fn ask(governors: &mut Governors, connecting: &ConnectRequest) -> Result<Limits, Refusal> {
    let mut narrowest = Limits::default();
    for governor in governors.values_mut() {
        let limits = governor.connect(connecting);
        let limits = limits.map_err(|refusal| wire_refusal(PluginFunction::Connect, refusal))?;
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
