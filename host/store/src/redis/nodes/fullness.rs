//! Asks the servers periodically how much memory they use. `context::usage` decides what follows for
//! principals.

use crate::redis::context::{Context, fullest_server::ServerMemory};
use std::{sync::Arc, time::Duration};
use switchyard_process::{memory, vital::VitalTasks};
use tokio::time::Instant;

/// How often the servers are asked. In between, this node counts what it adds itself.
const INTERVAL: Duration = Duration::from_secs(2);
/// The delay before they are asked early, because this node alone has added a lot.
const GROWTH_DELAY: Duration = Duration::from_millis(50);
/// The minimum time between two warnings that Redis is nearly full.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Starts watching the memory of the servers.
pub(crate) fn watch(context: &Arc<Context>, vitals: &VitalTasks) {
    let context = Arc::downgrade(context);
    vitals.spawn("the watch over Redis' memory", async move {
        let (mut ticks, mut warned) = (tokio::time::interval(INTERVAL), None::<Instant>);
        loop {
            {
                let Some(context) = context.upgrade() else { return };
                tokio::select! {
                    _ = ticks.tick() => context.usage.sweep(),
                    () = context.fullest_server.has_grown() => tokio::time::sleep(GROWTH_DELAY).await,
                }
            }
            let Some(context) = context.upgrade() else { return };
            context.fullest_server.begin_to_ask();
            let mut fullest = None::<ServerMemory>;
            for server in context.link.servers() {
                // A server that does not answer is asked again next time. Its last report stays in use.
                let Ok(memory) = context.link.memory(&server).await else { continue };
                if fullest.is_none_or(|fullest| memory.fill() > fullest.fill()) {
                    fullest = Some(memory);
                }
            }
            let Some(fullest) = fullest else { continue };
            context.fullest_server.set(fullest);
            let ServerMemory { used, limit } = fullest;
            context.metrics.record_memory(used, limit);
            if memory::is_under_pressure(used, limit)
                && warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL)
            {
                warned = Some(Instant::now());
                tracing::warn!(
                    used,
                    limit,
                    "little memory is left in Redis; principals that use much of it are refused more"
                );
            }
        }
    });
}
