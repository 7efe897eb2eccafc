//! Which Redis processes this node talks to. One that is not what it was may lack what this node was answered: a replica that took
//! over, or one that was started again from a file.

use crate::redis::context::Context;
use fred::types::config::Server;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use switchyard_process::vital::VitalTasks;
use tokio::sync::mpsc;

/// After a server that did not say which it is.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Of the tasks.
const NAME: &str = "the watch over Redis' processes";

/// What each server called itself last: another after each start, and after each promotion of a replica.
type ServerIds = Arc<Mutex<HashMap<Server, String>>>;

/// Notes those that are there, and from then on tells whenever one is not what it was: all that this node has said is written is then
/// written again.
pub(crate) async fn watch(
    context: &Arc<Context>,
    mut connected: mpsc::UnboundedReceiver<Server>,
    vitals: &VitalTasks,
) {
    let known = ServerIds::default();
    for server in context.link.servers() {
        // One that does not answer is asked when it is connected the next time.
        if let Ok(id) = context.link.identity(&server).await {
            known.lock().expect("no code panics while it holds them").insert(server, id);
        }
    }
    let context = Arc::downgrade(context);
    let looks = vitals.clone();
    vitals.spawn(NAME, async move {
        while let Some(server) = connected.recv().await {
            looks.spawn(NAME, look(context.clone(), known.clone(), server));
        }
    });
}

/// Asks a server that was connected anew until it says what it is.
async fn look(context: std::sync::Weak<Context>, known: ServerIds, server: Server) {
    loop {
        let Some(context) = context.upgrade() else { return };
        match context.link.identity(&server).await {
            Ok(id) => {
                let before = known
                    .lock()
                    .expect("no code panics while it holds them")
                    .insert(server.clone(), id.clone());
                if before.as_ref() != Some(&id) {
                    tracing::info!(%server, "a Redis that is not what it was; writing again what this node holds");
                    context.server_replaced.store(true, Ordering::Relaxed);
                }
                return;
            }
            // It is gone again, or connected anew; then it comes up again.
            Err(_) if !context.link.servers().contains(&server) => return,
            Err(_) => {}
        }
        drop(context);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
