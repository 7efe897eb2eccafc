//! How the program starts and ends: with one clear sentence and a non-zero status when something is wrong.

use crate::{
    Cli,
    output::{Faults, OutputError, remark},
};
use anyhow::Context;
use clap::Parser;
use std::{
    io::stderr,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::mpsc,
    time::{Duration, Instant},
};
use switchyard_plugin::{COMPILE_COMMAND, compile_for_parent};
use switchyard_process::log::{Log, panic_message};
use tokio::runtime::{Builder, Runtime};

/// The program `switchyard`.
pub fn main() -> ExitCode {
    // A node starts itself like this; it is no command for people, and needs neither a log nor a runtime.
    if std::env::args_os().nth(1).is_some_and(|command| command == COMPILE_COMMAND) {
        return compile_for_parent();
    }
    let cli = Cli::parse();
    let log = match Log::start(stderr()) {
        Ok(log) => log,
        Err(error) => {
            remark(format_args!("switchyard: the thread that writes the log cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    log.install();
    let ended = runtime(&log).and_then(|runtime| {
        log.install_panic_hook();
        // A panic was logged, and is written before the process ends.
        let ran = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(cli.run())));
        // Not awaited: a thread may be in a call that does not end.
        runtime.shutdown_background();
        ran.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, which is a fault of the program")))
    });
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The way of the log, which never blocks.
            if let Some(Faults(all)) = error.downcast_ref() {
                all.iter().for_each(|fault| log.write_message(fault));
            } else if !error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed) {
                log.write_message(format_args!("{error:#}"));
            }
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

/// Until all workers run.
const START: Duration = Duration::from_secs(5);
/// Threads that look up names.
const LOOKUPS: usize = 4;

/// Tokio panics where the system has no thread for a worker, and then waits for ever for those that it has started; or it does
/// without that worker, and what is its to do is never done.
fn runtime(log: &Log) -> anyhow::Result<Runtime> {
    let says = log.clone();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        says.write_message(format_args!("the runtime cannot be started: {}", panic_message(panic.payload())));
        says.flush();
        std::process::exit(1);
    }));
    let (started, starts) = mpsc::channel();
    let start = move || _ = started.send(());
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().on_thread_start(start);
    // Names of servers are looked up on these: a thread that is there already is never given back.
    builder.max_blocking_threads(LOOKUPS).thread_keep_alive(Duration::from_secs(u32::MAX.into()));
    let runtime = builder.build().context("the runtime cannot be started")?;
    // Here it panics for want of a thread, or nowhere.
    runtime.spawn_blocking(|| {});
    panic::set_hook(hook);
    let end = Instant::now() + START;
    for n in 0..=runtime.metrics().num_workers() {
        if starts.recv_timeout(end.saturating_duration_since(Instant::now())).is_err() {
            runtime.shutdown_background();
            anyhow::bail!("the runtime cannot be started: the system has {n} threads for it, and no more");
        }
    }
    Ok(runtime)
}
