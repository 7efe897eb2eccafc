//! The thread of a plugin's shard, so that a slow plugin delays only its own rooms. It is started when the plugin is
//! first needed there. While the plugin is not needed, the shard runs in a task like those of rooms without a plugin:
//! waking a thread costs more than a delivery. How the thread is shared is in `governed.rs`.

use super::governed::PendingCommands;
use super::*;
use crate::hub::{cannot_start_thread, policy::ClosedReason};
use std::{collections::VecDeque, io};
use switchyard_process::{lock::LockExt, vital::VitalTasks};

/// A shard on its way to its thread.
struct ShardHandoff {
    shard: Shard,
    commands: mpsc::UnboundedReceiver<ShardCommand>,
    /// The commands that it handles first.
    first: VecDeque<ShardCommand>,
    back: oneshot::Sender<ReturnedShard>,
}

/// A shard whose thread has nothing to do, with its queue.
type ReturnedShard = (Shard, mpsc::UnboundedReceiver<ShardCommand>);

impl Shard {
    /// Runs the shard of a plugin. If the system cannot start a thread for it, its rooms are closed, and each request
    /// tries again.
    pub(in crate::hub) async fn run_governed(
        mut self,
        plugin: Arc<str>,
        mut commands: mpsc::UnboundedReceiver<ShardCommand>,
        vitals: VitalTasks,
    ) {
        let (mut thread, mut queued) = (None, VecDeque::new());
        let mut batch = Vec::with_capacity(COMMAND_BATCH_SIZE);
        while self.receive(&mut commands, &mut batch).await {
            queued.extend(batch.drain(..));
            while let Some(command) = queued.pop_front() {
                if !self.needs_thread(&command) {
                    self.handle(command);
                    self.finish_swap().await;
                    // What waited for it comes before what came later.
                    let released: Vec<_> = std::iter::from_fn(|| self.arrivals.next_released()).collect();
                    released.into_iter().rev().for_each(|command| queued.push_front(command));
                    continue;
                }
                let handoffs = match &thread {
                    Some(handoffs) => handoffs,
                    None => match start_thread(&plugin, &vitals) {
                        Ok(handoffs) => thread.insert(handoffs),
                        Err(error) => {
                            self.handle_without_thread(&plugin, command, error);
                            continue;
                        }
                    },
                };
                self.has_thread = true;
                // What was delivered does not wait for the plugin.
                self.flush.write(Instant::now(), &self.queue);
                queued.push_front(command);
                let (back, returned) = oneshot::channel();
                let first = std::mem::take(&mut queued);
                handoffs.send(ShardHandoff { shard: self, commands, first, back }).ok();
                match returned.await {
                    Ok(returned) => (self, commands) = returned,
                    Err(_) => return,
                }
            }
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
        self.flush.write_all();
    }

    /// Whether a command may call the plugin.
    pub(super) fn needs_thread(&self, command: &ShardCommand) -> bool {
        if !matches!(self.policy, Policy::Governed(_)) {
            return false;
        }
        match command {
            ShardCommand::Request(request) => self.may_call(request),
            ShardCommand::Store(Event::Published(message)) => match self.rooms.get(&*message.room) {
                Some(RoomEntry::Open(room, _)) => room.has_filters(),
                Some(RoomEntry::Opening(..)) | None => false,
            },
            ShardCommand::Store(
                Event::Lost { .. } | Event::TakenOver(_) | Event::Probe(_) | Event::Reconnected,
            )
            | ShardCommand::Acknowledge { .. }
            | ShardCommand::FinishCatchUp { .. }
            | ShardCommand::Survey { .. }
            | ShardCommand::Written => false,
            ShardCommand::Adopt { rooms, .. } => self.has_thread || !rooms.is_empty(),
            // Without a thread, the plugin was never called, so there is nothing to release and nothing to compile.
            ShardCommand::Store(Event::Subscribed { .. } | Event::SubscribeFailed { .. })
            | ShardCommand::Accept { .. }
            | ShardCommand::Decline { .. }
            | ShardCommand::Leave { .. }
            | ShardCommand::PrepareSwap(_)
            | ShardCommand::Mirror(_)
            | ShardCommand::HandOver { .. } => self.has_thread,
        }
    }

    /// Whether the plugin may be called to answer a request.
    pub(super) fn may_call(&self, request: &PolicyRequest) -> bool {
        let (Policy::Governed(governor), PolicyRequest::Check { message, .. }) = (&self.policy, request)
        else {
            return true;
        };
        let hooks = governor.plugin().info().hooks;
        let has_limits = |governed: &Arc<GovernedRooms>| {
            governed.quotas.locked().stay_known(&message.key.principal, &message.room, Instant::now())
        };
        hooks.room || hooks.publish || (hooks.subscribe && !self.governed.as_ref().is_some_and(has_limits))
    }

    /// Handles a command that needs a thread, as if the rooms were closed.
    fn handle_without_thread(&mut self, plugin: &Arc<str>, command: ShardCommand, error: io::Error) {
        tracing::error!(%plugin, %error, "no thread can be started for a plugin; some of its rooms are closed");
        match command {
            // It must not wait for its room here, because then it would be answered without a thread.
            ShardCommand::Request(request) => {
                request.refuse(cannot_start_thread(&format!("of plugin '{plugin}'"), error));
            }
            command => {
                let closed = Policy::Closed { plugin: plugin.clone(), reason: ClosedReason::NoThread };
                let governed = std::mem::replace(&mut self.policy, closed);
                self.handle_in_order(command);
                self.policy = governed;
            }
        }
    }
}

/// Starts a thread that waits for its shard. The shard is sent only then, so that it is not lost if no thread
/// can be started. The thread ends when nobody can send it the shard any more.
fn start_thread(plugin: &str, vitals: &VitalTasks) -> io::Result<mpsc::UnboundedSender<ShardHandoff>> {
    let (sender, mut handoffs) = mpsc::unbounded_channel::<ShardHandoff>();
    let runtime = tokio::runtime::Handle::current();
    let run = async move {
        let mut pending = PendingCommands::default();
        while let Some(ShardHandoff { shard, commands, first, back }) = handoffs.recv().await {
            if let Some(returned) = shard.run_in_turns(commands, first, &mut pending).await {
                back.send(returned).ok();
            }
        }
    };
    vitals.spawn_thread(format!("plugin {plugin}"), move || runtime.block_on(run))?;
    Ok(sender)
}
