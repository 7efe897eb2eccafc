//! The commands that Redis has received so far, as counted by Redis and by the nodes, and its processor time.

use std::collections::BTreeMap;
use switchyard_tests::{Node, Redis};

pub type Calls = BTreeMap<String, u64>;

/// Reads a field of INFO.
pub async fn info(redis: &Redis, section: &str, field: &str) -> String {
    let text = redis.command(&["INFO", section]).await;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
}

/// Redis's processor time in seconds, according to Redis, which is more precise than /proc.
pub async fn redis_cpu(redis: &Redis) -> f64 {
    let text = redis.command(&["INFO", "cpu"]).await;
    let fields = ["used_cpu_user:", "used_cpu_sys:"];
    let value = |line: &str| fields.iter().find_map(|field| line.strip_prefix(field)?.parse::<f64>().ok());
    text.lines().filter_map(value).sum()
}

/// Calls by command. Redis counts what a script calls as well as the script itself; only EVALSHA and EVAL are
/// certainly sent by clients.
pub async fn calls(redis: &Redis) -> Calls {
    let text = redis.command(&["INFO", "commandstats"]).await;
    let call = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(call).collect()
}

/// The commands that these nodes have sent, according to their metrics: scripts in lower case, other commands
/// in upper case.
pub async fn node_commands(nodes: &[&Node]) -> Calls {
    const SERIES: &str = "switchyard_store_command_seconds_count{command=\"";
    let mut commands = Calls::new();
    for node in nodes {
        let (_, text) = node.call("GET", "/metrics", "").await;
        let lines = text.lines().filter_map(|line| line.strip_prefix(SERIES)?.split_once("\"} "));
        for (name, count) in lines {
            *commands.entry(name.to_owned()).or_default() += count.parse::<u64>().expect("a count");
        }
    }
    commands
}

pub fn since(before: &Calls, now: Calls) -> Calls {
    let mut now = now;
    now.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
    now
}
