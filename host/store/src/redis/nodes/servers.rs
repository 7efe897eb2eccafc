//! Which Redis processes this node is connected to. A process that is not the same as before, such as a
//! promoted replica or one that was restarted from a file, may lack writes that were confirmed to this node.

use crate::redis::context::Context;
use fred::types::config::Server;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use switchyard_process::{lock::LockExt, vital::VitalTasks};
use tokio::sync::mpsc;

/// The delay before a server that did not answer is asked again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The name of the tasks.
const NAME: &str = "the watch over Redis' processes";

/// The run ID and role history of each server, which changes with each start and each promotion of a replica.
type ServerIds = Arc<Mutex<HashMap<Server, String>>>;

/// Records the identity of each server. When one has changed, the lease's task is told, and this node writes
/// everything again.
pub(crate) async fn watch(
    context: &Arc<Context>,
    mut connected: mpsc::UnboundedReceiver<Server>,
    vitals: &VitalTasks,
) {
    let known = ServerIds::default();
    for server in context.link.servers() {
        // A server that does not answer is asked when it connects next.
        if let Ok(id) = context.link.identity(&server).await {
            known.locked().insert(server, id);
        }
    }
    let context = Arc::downgrade(context);
    let tasks = vitals.clone();
    vitals.spawn(NAME, async move {
        while let Some(server) = connected.recv().await {
            tasks.spawn(NAME, identify(context.clone(), known.clone(), server));
        }
    });
}

/// Asks a server that has connected for its identity, until it answers.
async fn identify(context: std::sync::Weak<Context>, known: ServerIds, server: Server) {
    loop {
        let Some(context) = context.upgrade() else { return };
        match context.link.identity(&server).await {
            Ok(id) => {
                let before = known.locked().insert(server.clone(), id.clone());
                if before.as_ref() != Some(&id) {
                    tracing::info!(%server, "a Redis server was restarted or replaced; writing everything again");
                    context.server_replaced.store(true, Ordering::Relaxed);
                }
                return;
            }
            // It has disconnected. When it connects again, it is asked again.
            Err(_) if !context.link.servers().contains(&server) => return,
            Err(_) => {}
        }
        drop(context);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
