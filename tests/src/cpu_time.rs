//! The processor time that processes, and the whole machine, have used so far.

use std::{collections::BTreeMap, fs, sync::LazyLock, thread};

/// Clock ticks per second in /proc, which is the same for every program.
const TICKS_PER_SECOND: f64 = 100.0;

/// The cores that this process had when it was first asked, which is before a benchmark restricts itself to some.
pub fn cores() -> usize {
    static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *CORES
}

/// The processor time of a process, in seconds.
pub fn cpu(process: u32) -> f64 {
    times(process).iter().take(2).sum()
}

/// The processor time of a process to the nanosecond, but only of threads that have not ended.
pub fn precisely(process: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("Linux, and a process that runs");
    let nanoseconds = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(nanoseconds).sum::<f64>() / 1e9
}

/// The processor time of each thread with this name, in seconds, by its id.
pub fn of_threads(process: u32, name: &str) -> BTreeMap<String, f64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("Linux, and a process that runs");
    let time = |thread: fs::DirEntry| {
        let read = |file| fs::read_to_string(thread.path().join(file)).ok();
        let nanoseconds = read("schedstat")?.split_whitespace().next()?.parse::<f64>().ok()?;
        (read("comm")?.trim() == name)
            .then(|| (thread.file_name().to_string_lossy().into_owned(), nanoseconds / 1e9))
    };
    threads.flatten().filter_map(time).collect()
}

/// The processor time of child processes of this process that have ended.
pub fn children() -> f64 {
    times(std::process::id()).iter().skip(2).sum()
}

/// User and system time of the process, and of its children that have ended.
fn times(process: u32) -> [f64; 4] {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux, and a process that runs");
    // The program's name comes first, in parentheses, and may contain anything.
    let (_, fields) = text.rsplit_once(')').expect("a name");
    let fields: Vec<_> = fields.split_whitespace().collect();
    [11, 12, 13, 14].map(|n| fields[n].parse::<f64>().expect("a number") / TICKS_PER_SECOND)
}

/// The processor time of everything on the machine.
pub fn machine() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("Linux");
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // The fields are user, nice, system, idle, iowait, irq and softirq.
    [0, 1, 2, 5, 6].iter().filter_map(|n| times.get(*n)).sum::<f64>() / TICKS_PER_SECOND
}

/// The processor time of all other programs, except child processes of this one that have ended.
pub fn by_others() -> f64 {
    machine() - times(std::process::id()).iter().sum::<f64>()
}
