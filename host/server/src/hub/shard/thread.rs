//! The thread of a plugin's shard, so that a slow plugin delays only its own rooms. It is started when the plugin is
//! first needed there; until then the shard has no members, and takes no thread. How the thread is shared is in
//! `governed.rs`.

use super::*;
use crate::hub::{cannot_start_thread, policy::ClosedReason};
use std::io;
use switchyard_process::vital::VitalTasks;

/// A shard, its queue, and the command that it handles first.
type ShardHandoff = (Shard, mpsc::UnboundedReceiver<ShardCommand>, ShardCommand);

impl Shard {
    /// Runs the shard of a plugin. If the system cannot start a thread for it, its rooms are closed, and each request
    /// tries again.
    pub(in crate::hub) async fn run_governed(
        mut self,
        plugin: Arc<str>,
        mut commands: mpsc::UnboundedReceiver<ShardCommand>,
        vitals: VitalTasks,
    ) {
        while let Some(command) = commands.recv().await {
            if !self.needs_thread(&command) {
                self.handle_in_order(command);
                self.finish_swap().await;
                continue;
            }
            match start_thread(&plugin, &vitals) {
                Ok(thread) => {
                    self.has_thread = true;
                    return drop(thread.send((self, commands, command)));
                }
                Err(error) => self.handle_without_thread(&plugin, command, error),
            }
        }
    }

    /// Whether a command may call the plugin.
    fn needs_thread(&self, command: &ShardCommand) -> bool {
        let may_call = match command {
            ShardCommand::Request(_) => true,
            ShardCommand::Adopt { rooms, .. } => !rooms.is_empty(),
            _ => false,
        };
        may_call && matches!(self.policy, Policy::Governed(_))
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
/// can be started.
fn start_thread(plugin: &str, vitals: &VitalTasks) -> io::Result<oneshot::Sender<ShardHandoff>> {
    let (sender, receiver) = oneshot::channel::<ShardHandoff>();
    let runtime = tokio::runtime::Handle::current();
    let run = async move {
        if let Ok((shard, commands, first)) = receiver.await {
            shard.run_in_turns(commands, first).await;
        }
    };
    vitals.spawn_thread(format!("plugin {plugin}"), move || runtime.block_on(run))?;
    Ok(sender)
}
