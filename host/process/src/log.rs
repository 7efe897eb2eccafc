//! Where log lines go: a bounded queue that a thread of its own empties into standard error. Logging never waits and never
//! panics, whatever became of standard error; a line that finds no room, or cannot be written, is dropped and counted. So is one
//! of a place that logs too often (`places.rs`), and each line is one, and not too long (`line.rs`).

mod levels;
mod line;
mod places;

use crate::escape::Escaper;
use line::{Clip, Fields, LONGEST};
use places::{Places, REPORT};
use prometheus_client::metrics::counter::Counter;
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

/// Lines that may wait to be written.
const LINES: usize = 8192;
/// Bytes that all of them may have.
const BYTES: usize = 4 << 20;
/// How long the end of the process waits for what was logged last.
const FLUSH: Duration = Duration::from_secs(1);

/// Bytes of what a panic leaves of its way.
const TRACE: usize = 64 << 10;

/// Of the process, as its log is.
static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Lines that nobody will read: there was no room for them, they could not be written, or one place wrote too many.
pub fn dropped() -> Counter {
    DROPPED.clone()
}

/// The way to the log; clones share it.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Entry>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
    places: Places,
}

enum Entry {
    Line(Vec<u8>),
    /// Answered when everything before it was written.
    Flush(SyncSender<()>),
}

impl Log {
    /// Starts the thread that writes. It ends with the last clone.
    pub fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(LINES);
        let log = Self { queue, waiting: Arc::default(), places: Places::default() };
        let (waiting, places) = (log.waiting.clone(), log.places.clone());
        thread::Builder::new().name("log".into()).spawn(move || write(to, &entries, &waiting, &places))?;
        Ok(log)
    }

    /// From now on everything that is logged goes there, as far as `RUST_LOG` asks for it.
    pub fn subscribe(&self) {
        let (levels, wrong) = levels::levels(std::env::var_os("RUST_LOG").as_deref());
        let lines = tracing_subscriber::fmt::layer().with_writer(self.clone()).fmt_fields(Fields);
        let lines = lines.with_ansi(stderr().is_terminal()).log_internal_errors(false);
        tracing_subscriber::registry().with(levels).with(self.places.clone()).with(lines).init();
        if let Some(wrong) = wrong {
            tracing::warn!("{wrong}");
        }
    }

    /// One line, or several that belong together, with the line end.
    fn put(&self, line: Vec<u8>) {
        let length = line.len();
        let fits = self.waiting.fetch_add(length, Ordering::Relaxed) + length <= BYTES;
        if !fits || self.queue.try_send(Entry::Line(line)).is_err() {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            DROPPED.inc();
        }
    }

    /// A sentence that is no log line, such as why the process ends.
    pub fn say(&self, text: impl fmt::Display) {
        let (mut line, mut left) = ("switchyard: ".to_owned(), LONGEST);
        if write!(Escaper(Clip { to: &mut line, left: &mut left }), "{text}").is_err() {
            line.push_str("… (cut off)");
        }
        self.put((line + "\n").into_bytes());
    }

    /// Waits until what was logged so far is written, but not for a standard error that takes nothing.
    pub fn flush(&self) {
        let end = Instant::now() + FLUSH;
        let (done, is_done) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(full)) = self.queue.try_send(entry) {
            if Instant::now() > end {
                return;
            }
            entry = full;
            thread::sleep(Duration::from_millis(10));
        }
        is_done.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
    }

    /// From now on panics are logged instead of being written to standard error, which could block whoever panics.
    pub fn take_panics(&self) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| log.panicked(panic)));
    }

    fn panicked(&self, panic: &PanicHookInfo) {
        let why = payload(panic.payload());
        let at = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let current = thread::current();
        let thread = current.name().unwrap_or("unnamed");
        let backtrace = Backtrace::capture();
        // What is not logged is said all the same: a panic is a fault of the program.
        match tracing::enabled!(tracing::Level::ERROR) {
            true => tracing::error!(thread, at, "panicked: {why}"),
            false => self.say(format_args!("thread '{thread}' panicked at {at}: {why}")),
        }
        // The program's own text, line by line.
        if backtrace.status() == BacktraceStatus::Captured {
            let mut trace = format!("{backtrace}\n").into_bytes();
            trace.truncate(TRACE);
            self.put(trace);
        }
    }
}

/// What a panic was given to say.
pub fn payload(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn write(mut to: impl Write, entries: &Receiver<Entry>, waiting: &AtomicUsize, places: &Places) {
    // When it is said next what was left out. A place that is left out has logged shortly before.
    let mut report: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if report.is_some_and(|at| at <= now) {
            let left_out = places.left_out();
            report = (!left_out.is_empty()).then(|| now + REPORT);
            for (place, lines) in left_out {
                let (module, line) = (&*place.module, place.line);
                tracing::warn!(module, line, lines, "log lines were left out: one place logs too often");
            }
        }
        let entry = match report {
            Some(at) => entries.recv_timeout(at.saturating_duration_since(now)),
            None => entries.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match entry {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(entry) => {
                report = report.or_else(|| Some(Instant::now() + REPORT));
                put(&mut to, entry, waiting);
            }
        }
    }
}

fn put(to: &mut impl Write, entry: Entry, waiting: &AtomicUsize) {
    match entry {
        Entry::Line(line) => {
            if to.write_all(&line).and_then(|()| to.flush()).is_err() {
                DROPPED.inc();
            }
            waiting.fetch_sub(line.len(), Ordering::Relaxed);
        }
        Entry::Flush(done) => drop(done.try_send(())),
    }
}

impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line.to_vec());
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

    /// Takes what it is given one line at a time, when it is allowed to.
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
    fn what_finds_no_room_is_dropped_and_counted_and_nobody_waits() {
        let before = dropped().get();
        let (open, gate) = mpsc::channel();
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let log = Log::start(Gate(gate, text.clone())).unwrap();
        let began = Instant::now();
        for _ in 0..LINES + 100 {
            (&log).write_all(b"a line\n").unwrap();
        }
        // One may be with the writer already.
        assert!(dropped().get() - before >= 99);
        log.flush();
        assert!(began.elapsed() < Duration::from_secs(8), "a flush gives up");
        (0..LINES + 1).for_each(|_| open.send(()).unwrap());
        log.flush();
        assert_eq!(&text.lock().unwrap()[..14], b"a line\na line\n");

        // Long lines are bounded by their bytes.
        let so_far = dropped().get();
        for _ in 0..10 {
            log.put(vec![b'x'; BYTES / 4]);
        }
        assert!(dropped().get() - so_far >= 5 && log.waiting.load(Ordering::Relaxed) <= BYTES);
        // What cannot be written is dropped, and the thread goes on.
        let so_far = dropped().get();
        drop(open);
        log.put(b"nobody reads this\n".to_vec());
        log.flush();
        assert!(dropped().get() > so_far);
        assert_eq!(log.waiting.load(Ordering::Relaxed), 0);
    }
}
