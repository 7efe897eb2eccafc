//! What has been asked of Redis so far: calls as Redis counts them, commands as the nodes count them; and its processor time.

use std::collections::BTreeMap;
use switchyard_tests::{Node, Redis};

pub type Calls = BTreeMap<String, u64>;

/// A field of INFO.
pub async fn info(redis: &Redis, section: &str, field: &str) -> String {
    let text = redis.command(&["INFO", section]).await;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
}

/// Seconds of processor time, by Redis' own account, which is finer than that of /proc.
pub async fn redis_cpu(redis: &Redis) -> f64 {
    let text = redis.command(&["INFO", "cpu"]).await;
    let fields = ["used_cpu_user:", "used_cpu_sys:"];
    let value = |line: &str| fields.iter().find_map(|field| line.strip_prefix(field)?.parse::<f64>().ok());
    text.lines().filter_map(value).sum()
}

/// Calls by command. What a script calls is counted as well as the script, so that only EVALSHA and EVAL, which no script
/// calls, are those of clients.
pub async fn calls(redis: &Redis) -> Calls {
    let text = redis.command(&["INFO", "commandstats"]).await;
    let call = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(call).collect()
}

/// What these nodes have asked of their store, by the metrics: scripts by their names, which are lower case, other
/// commands by theirs, which are upper case.
pub async fn asked(nodes: &[&Node]) -> Calls {
    const SERIES: &str = "switchyard_store_command_seconds_count{command=\"";
    let mut asked = Calls::new();
    for node in nodes {
        let (_, text) = node.call("GET", "/metrics", "").await;
        let lines = text.lines().filter_map(|line| line.strip_prefix(SERIES)?.split_once("\"} "));
        for (name, count) in lines {
            *asked.entry(name.to_owned()).or_default() += count.parse::<u64>().expect("a count");
        }
    }
    asked
}

pub fn since(before: &Calls, now: Calls) -> Calls {
    let mut now = now;
    now.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
    now
}
