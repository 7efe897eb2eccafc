//! Schedules of failures on fixed seeds. `cargo xtask check` runs others.

use futures_util::{StreamExt, stream};
use switchyard_tests::check::{Options, draw, run};

/// How many schedules run beside one another: they wait most of the time.
const AT_ONCE: usize = 4;

/// Three nodes are killed, stopped, cut off from Redis, and have some of their commands late or lost, while a dozen clients
/// subscribe, change filters, acknowledge, are cut, resume anywhere and take over from themselves. Whatever each was told
/// keeps to the protocol, and in the calm afterwards everything is as the living have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_are_told_holds_whatever_fails() {
    let options = Options::default();
    let runs = stream::iter(SEEDS).map(async |seed| run(seed, &draw(seed, &options), &options).await);
    let outcomes: Vec<_> = runs.buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).collect();
    assert!(failed.is_empty(), "{}", failed.iter().map(ToString::to_string).collect::<String>());
}

/// Each broke a rule before sessions were fenced.
const SEEDS: [u64; 8] = [1, 3, 4, 8, 14, 18, 24, 25];
