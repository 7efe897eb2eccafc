//! Sessions while Redis, a node or a connection between them fails. Many of these tests reproduce a bug in
//! which clients were told something wrong, or not told something.

mod acknowledgements;
mod confirmed_changes;
mod failover;
mod leaks;
mod lost_data;
mod resuming;
mod shards;
mod suspended_nodes;
mod takeover;
mod unresponsive_redis;

use std::time::Duration;
use switchyard_tests::{Node, Redis, eventually, eventually_within};

/// The guaranteed time to detect a dead node.
const NOTICED: Duration = Duration::from_secs(20);

async fn two(redis: &Redis, extra: &str) -> (Node, Node) {
    let url = redis.url();
    tokio::join!(Node::start(&url, extra), Node::start(&url, extra))
}

/// The commands that Redis executes per second, including those in scripts.
async fn commands_a_second(redis: &Redis) -> f64 {
    let so_far = async || {
        let stats = redis.command(&["INFO", "stats"]).await;
        let line = stats.lines().find_map(|line| line.trim().strip_prefix("total_commands_processed:"));
        line.expect("a count").parse::<u64>().expect("a number")
    };
    const WINDOW: Duration = Duration::from_secs(2);
    let before = so_far().await;
    tokio::time::sleep(WINDOW).await;
    (so_far().await - before) as f64 / WINDOW.as_secs_f64()
}

/// Waits until Redis receives as few commands as when nothing happens.
async fn rests(redis: &Redis, resting: f64) {
    let mut seen = vec![];
    let end = std::time::Instant::now() + Duration::from_secs(15);
    while std::time::Instant::now() < end {
        let rate = commands_a_second(redis).await;
        if rate <= 2.0 * resting + 20.0 {
            return;
        }
        seen.push(rate);
    }
    panic!("{resting} commands a second at rest, afterwards {seen:?}");
}

/// The sum of a principal's connections that the nodes report.
async fn counted(redis: &Redis, principal: &str) -> u64 {
    let counts = redis.command(&["HVALS", &format!("switchyard:{{@{principal}}}:connections")]).await;
    counts.lines().filter_map(|count| count.parse::<u64>().ok()).sum()
}

async fn is_counted(redis: &Redis, principal: &str, count: u64) {
    eventually(&format!("{count} connections of {principal} counted"), async || {
        (counted(redis, principal).await == count).then_some(())
    })
    .await;
}

/// Stops a node for longer than its lease, until another node has cleared what it seems to have left behind.
async fn sleeps_beyond_its_lease(one: &Node, other: &Node) {
    let before = other.metric("switchyard_store_reaped_total").await;
    one.process.signal("STOP").await;
    eventually_within(NOTICED, "a reaped node", async || {
        (other.metric("switchyard_store_reaped_total").await > before).then_some(())
    })
    .await;
}

/// Removes the notices by which nodes tell each other of takeovers, once there is one.
async fn lose_notices(redis: &Redis) {
    let lists = eventually("a notice", async || {
        let keys = redis.command(&["KEYS", "switchyard:{/node-*"]).await;
        let lists = keys.lines().filter(|key| key.ends_with(":calls") || key.ends_with(":takeovers"));
        let lists: Vec<_> = lists.map(str::to_owned).collect();
        (!lists.is_empty()).then_some(lists)
    })
    .await;
    for list in lists {
        redis.command(&["DEL", &list]).await;
    }
}
