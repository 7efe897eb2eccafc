//! Processor time that has been spent so far, of processes and of the machine.

use std::{fs, thread};

/// Of times in /proc, in a second; the kernel has it so for every program.
const TICKS: f64 = 100.0;

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Seconds of processor time of a process.
pub fn cpu(process: u32) -> f64 {
    times(process).iter().take(2).sum()
}

/// The same to the nanosecond, of threads that have not ended.
pub fn precisely(process: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("Linux, and a process that runs");
    let nanoseconds = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(nanoseconds).sum::<f64>() / 1e9
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
