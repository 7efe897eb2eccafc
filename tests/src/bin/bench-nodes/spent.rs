//! What has been spent so far: calls as Redis counts them, commands as the nodes count them, processor time of Redis, of
//! processes and of the machine.

use std::{collections::BTreeMap, fs, thread};
use switchyard_tests::{Node, Redis};

/// Of times in /proc, in a second; the kernel has it so for every program.
const TICKS: f64 = 100.0;

pub type Calls = BTreeMap<String, u64>;

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

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

/// Seconds of processor time of a process.
pub fn cpu(process: u32) -> f64 {
    times(process).iter().take(2).sum()
}

/// Of the children of this process that have ended.
pub fn children() -> f64 {
    times(std::process::id()).iter().skip(2).sum()
}

/// User, system, and both of the children that have ended.
fn times(process: u32) -> [f64; 4] {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux, and a process that runs");
    // The program's name comes first, in brackets, and may hold anything.
    let (_, fields) = text.rsplit_once(')').expect("a name");
    let fields: Vec<_> = fields.split_whitespace().collect();
    [11, 12, 13, 14].map(|n| fields[n].parse::<f64>().expect("a number") / TICKS)
}

/// Of everything on the machine, whoever runs it.
pub fn machine() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("Linux");
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system; then idle and waiting; then interrupts of both kinds.
    [0, 1, 2, 5, 6].iter().filter_map(|n| times.get(*n)).sum::<f64>() / TICKS
}

/// Of programs that are neither this one nor a child of it that has ended.
pub fn by_others() -> f64 {
    machine() - times(std::process::id()).iter().sum::<f64>()
}
