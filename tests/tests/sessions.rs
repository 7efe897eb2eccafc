//! Schedules of failures with fixed seeds. `cargo xtask check` runs others.

use futures_util::{StreamExt, stream};
use switchyard_tests::check::{Options, draw, run};

/// How many schedules run concurrently. Most of the time they wait.
const AT_ONCE: usize = 4;

/// Three nodes are killed, stopped and cut off from Redis, and some of their commands are delayed or lost.
/// Meanwhile a dozen clients subscribe, change filters, acknowledge, lose connections, resume on any node and
/// take over their own sessions. What each client is told must follow the protocol, and
/// afterwards everything must match the clients that are still connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_the_truth_under_all_failures() {
    let options = Options::default();
    let runs = stream::iter(SEEDS).map(async |seed| run(seed, &draw(seed, &options), &options).await);
    let outcomes: Vec<_> = runs.buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).collect();
    assert!(failed.is_empty(), "{}", failed.iter().map(ToString::to_string).collect::<String>());
}

/// Seeds that each broke a rule before sessions were fenced.
const SEEDS: [u64; 8] = [1, 3, 4, 8, 14, 18, 24, 25];
