//! Where plugins are asked whether a connection may come in. A thread and instances of its own, so that a plugin
//! that is busy with its rooms does not keep clients from connecting.

use crate::{
    plugin::{Connecting, Governor, Limits, Plugin, RefusalCode},
    protocol::{Code, Refusal},
};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

pub struct Lobby {
    questions: mpsc::UnboundedSender<Question>,
}

enum Question {
    Admit(Connecting, oneshot::Sender<Result<Limits, Refusal>>),
    Swap(String, Arc<Plugin>, oneshot::Sender<Result<(), String>>),
}

impl Lobby {
    /// `None` where no plugin wants to be asked. The thread ends with the lobby.
    pub fn start(mut governors: Vec<Governor>) -> Option<Self> {
        if governors.is_empty() {
            return None;
        }
        let (questions, mut asked) = mpsc::unbounded_channel();
        let serve = move || {
            while let Some(question) = asked.blocking_recv() {
                match question {
                    // Who gave up waiting costs the plugins nothing.
                    Question::Admit(_, reply) if reply.is_closed() => {}
                    Question::Admit(connecting, reply) => drop(reply.send(ask(&mut governors, &connecting))),
                    Question::Swap(name, plugin, reply) => {
                        drop(reply.send(swap(&mut governors, &name, plugin)))
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("lobby".into())
            .spawn(serve)
            .expect("the system has a thread for the lobby");
        Some(Self { questions })
    }

    pub async fn admit(&self, connecting: Connecting) -> Result<Limits, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(Question::Admit(connecting, reply)).ok();
        answer
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Code::PluginFailed, "this node is stopping; connect again")))
    }

    /// A plugin that does not want to be asked here is left out.
    pub async fn swap(&self, name: &str, plugin: Arc<Plugin>) -> Result<(), String> {
        let (reply, swapped) = oneshot::channel();
        self.questions.send(Question::Swap(name.to_owned(), plugin, reply)).ok();
        swapped.await.unwrap_or_else(|_| Err("this node is stopping".to_owned()))
    }
}

fn swap(governors: &mut [Governor], name: &str, plugin: Arc<Plugin>) -> Result<(), String> {
    governors.iter_mut().filter(|governor| governor.name() == name).try_for_each(|g| g.swap(plugin.clone()))
}

fn ask(governors: &mut [Governor], connecting: &Connecting) -> Result<Limits, Refusal> {
    let mut narrowest = Limits::default();
    for governor in governors {
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
