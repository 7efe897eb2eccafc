//! The log: a bounded queue, which a thread writes to standard error. Decides nothing about what is logged.
//!
//! Logging never blocks and never panics, whatever happens to standard error. A line is dropped and counted
//! if the queue is full, if it cannot be written, or if its callsite logs too often (`rate_limit.rs`). Lines
//! have a maximum length and cannot forge other lines (`fields.rs`).

mod fields;
mod levels;
mod rate_limit;

use crate::escape::Escaper;
use fields::{EscapedFields, LimitedWriter, MAX_LINE_BYTES};
use prometheus_client::metrics::counter::Counter;
use rate_limit::{CallsiteLimiter, REPORT_INTERVAL};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write, stderr},
    panic::PanicHookInfo,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// The target of the audit log: lines that say who did what. They are exempt from the limit of lines per callsite.
pub const AUDIT_TARGET: &str = "switchyard::audit";

/// The most lines that may wait to be written.
const MAX_QUEUED_LINES: usize = 8192;
/// The most bytes that may wait to be written.
const MAX_QUEUED_BYTES: usize = 4 << 20;
/// How long a flush waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of the backtrace of a panic.
const MAX_BACKTRACE_BYTES: usize = 64 << 10;

/// Of the whole process, as the log is.
static DROPPED_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// The counter of log lines that were dropped: the queue was full, they could not be written, or their
/// callsite logs too often.
pub fn dropped_lines() -> Counter {
    DROPPED_LINES.clone()
}

/// A handle to the queue of the log. Clones share the queue.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<LogItem>,
    queued_bytes: Arc<AtomicUsize>,
    limiter: CallsiteLimiter,
}

/// What the queue of the log contains.
enum LogItem {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl Log {
    /// Starts the thread that writes to `to`. It ends when the last clone is dropped.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, items) = sync_channel(MAX_QUEUED_LINES);
        let log = Self { queue, queued_bytes: Arc::default(), limiter: CallsiteLimiter::default() };
        let (queued_bytes, limiter) = (log.queued_bytes.clone(), log.limiter.clone());
        let run = move || write_items(to, &items, &queued_bytes, &limiter);
        thread::Builder::new().name("log".into()).spawn(run)?;
        Ok(log)
    }

    /// Makes this the log of the process, with the levels of `RUST_LOG`.
    ///
    /// # Panics
    ///
    /// If the process already has a log.
    pub fn install(&self) {
        let (levels, problem) = levels::filter_of(std::env::var_os("RUST_LOG").as_deref());
        let lines = tracing_subscriber::fmt::layer().with_writer(self.clone()).fmt_fields(EscapedFields);
        let lines = lines.with_ansi(stderr().is_terminal()).log_internal_errors(false);
        tracing_subscriber::registry().with(levels).with(self.limiter.clone()).with(lines).init();
        if let Some(problem) = problem {
            tracing::warn!("{problem}");
        }
    }

    /// Enqueues one line, or several that belong together, with the line break at the end.
    fn enqueue(&self, line: Vec<u8>) {
        let length = line.len();
        let fits = self.queued_bytes.fetch_add(length, Ordering::Relaxed) + length <= MAX_QUEUED_BYTES;
        if !fits || self.queue.try_send(LogItem::Line(line)).is_err() {
            self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            DROPPED_LINES.inc();
        }
    }

    /// Writes a message that is not a log line, such as why the process ends: `switchyard: …`.
    pub fn write_message(&self, text: impl fmt::Display) {
        let (mut line, mut left) = ("switchyard: ".to_owned(), MAX_LINE_BYTES);
        if write!(Escaper(LimitedWriter { to: &mut line, left: &mut left }), "{text}").is_err() {
            line.push_str("… (truncated)");
        }
        self.enqueue((line + "\n").into_bytes());
    }

    /// Waits until everything logged so far is written, but for one second at most: standard error may block
    /// forever.
    pub fn flush(&self) {
        let end = Instant::now() + FLUSH_TIMEOUT;
        let (done, is_done) = sync_channel(1);
        let mut item = LogItem::Flush(done);
        while let Err(TrySendError::Full(full)) = self.queue.try_send(item) {
            if Instant::now() > end {
                return;
            }
            item = full;
            thread::sleep(Duration::from_millis(10));
        }
        is_done.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
    }

    /// Logs panics from now on, instead of writing them to standard error, which could block the thread that
    /// panics.
    pub fn install_panic_hook(&self) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| log.panicked(panic)));
    }

    fn panicked(&self, panic: &PanicHookInfo) {
        let message = panic_message(panic.payload());
        let at = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let current = thread::current();
        let thread = current.name().unwrap_or("unnamed");
        let backtrace = Backtrace::capture();
        // A panic is a bug, so it is written even if `RUST_LOG` filters it out.
        match tracing::enabled!(tracing::Level::ERROR) {
            true => tracing::error!(thread, at, "panicked: {message}"),
            false => self.write_message(format_args!("thread '{thread}' panicked at {at}: {message}")),
        }
        // Not escaped: it contains only names of this program, in several lines.
        if backtrace.status() == BacktraceStatus::Captured {
            let mut trace = format!("{backtrace}\n").into_bytes();
            trace.truncate(MAX_BACKTRACE_BYTES);
            self.enqueue(trace);
        }
    }
}

/// The message of a panic, from its payload.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn write_items(
    mut to: impl Write,
    items: &Receiver<LogItem>,
    queued_bytes: &AtomicUsize,
    limiter: &CallsiteLimiter,
) {
    // When to report suppressed lines next. Any line sets it: a callsite whose lines are suppressed has
    // logged some shortly before.
    let mut report: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if report.is_some_and(|at| at <= now) {
            let suppressed = limiter.take_suppressed();
            report = (!suppressed.is_empty()).then(|| now + REPORT_INTERVAL);
            for (callsite, lines) in suppressed {
                let (module, line) = (&*callsite.module, callsite.line);
                tracing::warn!(
                    module,
                    line,
                    lines,
                    "log lines suppressed: one place in the code logs too often"
                );
            }
        }
        let item = match report {
            Some(at) => items.recv_timeout(at.saturating_duration_since(now)),
            None => items.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match item {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(item) => {
                report = report.or_else(|| Some(Instant::now() + REPORT_INTERVAL));
                write_item(&mut to, item, queued_bytes);
            }
        }
    }
}

fn write_item(to: &mut impl Write, item: LogItem, queued_bytes: &AtomicUsize) {
    match item {
        LogItem::Line(line) => {
            if to.write_all(&line).and_then(|()| to.flush()).is_err() {
                DROPPED_LINES.inc();
            }
            queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        }
        LogItem::Flush(done) => drop(done.try_send(())),
    }
}

impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.enqueue(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Log;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc};

    /// Writes one line each time the channel allows it.
    struct Gate(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.1.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let before = dropped_lines().get();
        let (open, gate) = mpsc::channel();
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let log = Log::start(Gate(gate, text.clone())).unwrap();
        let began = Instant::now();
        for _ in 0..MAX_QUEUED_LINES + 100 {
            (&log).write_all(b"a line\n").unwrap();
        }
        // The writer may already have one.
        assert!(dropped_lines().get() - before >= 99);
        log.flush();
        assert!(began.elapsed() < Duration::from_secs(8), "a flush gives up");
        (0..MAX_QUEUED_LINES + 1).for_each(|_| open.send(()).unwrap());
        log.flush();
        assert_eq!(&text.lock().unwrap()[..14], b"a line\na line\n");

        // The bytes in the queue are limited, too.
        let so_far = dropped_lines().get();
        for _ in 0..10 {
            log.enqueue(vec![b'x'; MAX_QUEUED_BYTES / 4]);
        }
        assert!(
            dropped_lines().get() - so_far >= 5
                && log.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES
        );
        // A line that cannot be written is dropped, and the thread continues.
        let so_far = dropped_lines().get();
        drop(open);
        log.enqueue(b"nobody reads this\n".to_vec());
        log.flush();
        assert!(dropped_lines().get() > so_far);
        assert_eq!(log.queued_bytes.load(Ordering::Relaxed), 0);
    }
}
