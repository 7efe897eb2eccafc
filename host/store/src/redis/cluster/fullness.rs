//! How full the servers are: asks them now and then and tells the holdings, which decide who gets no more.

use crate::redis::context::{Context, holdings::Fill};
use std::{sync::Arc, time::Duration};
use switchyard_process::{memory, vital::VitalTasks};
use tokio::time::Instant;

/// How often the servers are asked; what this node adds meanwhile it counts itself.
const LOOK: Duration = Duration::from_secs(2);
/// Between two times that they are asked because this node alone has added much.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is told at most that little is left.
const TELL: Duration = Duration::from_secs(60);

/// Looks at how full the servers are from now on.
pub(crate) fn watch(context: &Arc<Context>, vitals: &VitalTasks) {
    let context = Arc::downgrade(context);
    vitals.spawn("the watch over Redis' memory", async move {
        let (mut ticks, mut told) = (tokio::time::interval(LOOK), None::<Instant>);
        loop {
            {
                let Some(context) = context.upgrade() else { return };
                tokio::select! {
                    _ = ticks.tick() => context.holdings.sweep(),
                    () = context.holdings.has_added_much() => tokio::time::sleep(PAUSE).await,
                }
            }
            let Some(context) = context.upgrade() else { return };
            context.holdings.begin_to_look();
            let mut fullest = None::<Fill>;
            for server in context.link.servers() {
                // One that does not answer is asked again; what was known stays.
                let Ok(fill) = context.link.fill(&server).await else { continue };
                let share = |fill: Fill| fill.used as f64 / fill.limit as f64;
                if fullest.is_none_or(|fullest| share(fill) > share(fullest)) {
                    fullest = Some(fill);
                }
            }
            let Some(Fill { used, limit }) = fullest else { continue };
            context.holdings.looked(Fill { used, limit });
            context.metrics.filled(used, limit);
            if memory::is_under_pressure(used, limit) && told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                tracing::warn!(
                    used,
                    limit,
                    "little memory is left in Redis: it takes no more of those for whom it holds most"
                );
            }
        }
    });
}
