//! Asks the servers now and then how much memory they use. What follows from that for principals is in
//! `context::usage`.

use crate::redis::context::{Context, fullest_server::ServerMemory};
use std::{sync::Arc, time::Duration};
use switchyard_process::{memory, vital::VitalTasks};
use tokio::time::Instant;

/// How often the servers are asked. What this node adds in between it counts itself.
const INTERVAL: Duration = Duration::from_secs(2);
/// Before they are asked at once, because this node alone has added much.
const GROWTH_DELAY: Duration = Duration::from_millis(50);
/// How often it is logged at most that little memory is left.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Watches the memory of the servers from now on.
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
                // One that does not answer is asked again later; what was known of it stays.
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
