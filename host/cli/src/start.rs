//! Starting and ending the process: the log, the async runtime, and the exit status. When something is wrong,
//! the program prints one clear sentence and exits with a status other than zero.

use crate::{
    Cli,
    output::{InvalidArguments, OutputError, Problems, note},
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

/// The exit status for invalid arguments, which clap uses as well.
const INVALID_ARGUMENTS_STATUS: u8 = 2;

/// The program `switchyard`: parses the arguments, runs the command and returns the exit status.
pub fn main() -> ExitCode {
    // A node starts this program as its compiler. That is no command for users, and needs neither a log nor a
    // runtime.
    if std::env::args_os().nth(1).is_some_and(|command| command == COMPILE_COMMAND) {
        return compile_for_parent();
    }
    let cli = Cli::parse();
    let log = match Log::start(stderr()) {
        Ok(log) => log,
        Err(error) => {
            note(format_args!("cannot start the thread that writes the log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    log.install();
    let result = start_runtime(&log).and_then(|runtime| {
        log.install_panic_hook();
        // The hook has logged a panic, and the log is flushed before the process ends.
        let result = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(cli.run())));
        // Does not wait: a thread may be in a call that never returns.
        runtime.shutdown_background();
        result.unwrap_or_else(|_| Err(anyhow::anyhow!("the program panicked, which is a bug")))
    });
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Through the log, because it never blocks.
            if let Some(Problems(problems)) = error.downcast_ref() {
                problems.iter().for_each(|problem| log.write_message(problem));
            } else if !error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed_pipe) {
                log.write_message(format_args!("{error:#}"));
            }
            match error.is::<InvalidArguments>() {
                true => ExitCode::from(INVALID_ARGUMENTS_STATUS),
                false => ExitCode::FAILURE,
            }
        }
    };
    log.flush();
    code
}

/// Limits starting all worker threads.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of threads that resolve host names.
const MAX_RESOLVER_THREADS: usize = 4;

/// Starts the runtime with all its threads, or fails. If the system does not provide a thread, tokio itself
/// panics and then waits forever for those it has started, or it goes on without a worker, whose tasks never
/// run.
fn start_runtime(log: &Log) -> anyhow::Result<Runtime> {
    let panic_log = log.clone();
    let previous_hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic_message(panic.payload());
        panic_log.write_message(format_args!("the runtime cannot be started: {message}"));
        panic_log.flush();
        std::process::exit(1);
    }));
    let (started, starts) = mpsc::channel();
    let on_start = move || _ = started.send(());
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().on_thread_start(on_start);
    // Tokio resolves host names on its blocking threads. They are kept, so that the system cannot deny a new
    // one later.
    builder
        .max_blocking_threads(MAX_RESOLVER_THREADS)
        .thread_keep_alive(Duration::from_secs(u32::MAX.into()));
    let runtime = builder.build().context("the runtime cannot be started")?;
    // Starts the first blocking thread now. If there is none for it, this panics here, where the hook expects
    // it.
    runtime.spawn_blocking(|| {});
    panic::set_hook(previous_hook);
    let deadline = Instant::now() + START_TIMEOUT;
    let expected = runtime.metrics().num_workers() + 1;
    for n in 0..expected {
        if starts.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            runtime.shutdown_background();
            anyhow::bail!(
                "the runtime cannot be started: the system provided only {n} of {expected} threads"
            );
        }
    }
    Ok(runtime)
}
