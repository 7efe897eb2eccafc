//! Where log lines go: a bounded queue that a thread of its own empties into standard error. Logging never waits and never
//! panics, whatever became of standard error; a line that finds no room, or cannot be written, is dropped and counted.

use prometheus_client::metrics::counter::Counter;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic::PanicHookInfo,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const LINES: usize = 8192;
/// Bytes that all of them may have.
const BYTES: usize = 4 << 20;
/// How long the end of the process waits for what was logged last.
const FLUSH: Duration = Duration::from_secs(1);

/// Of the process, as its log is.
static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Lines that nobody will read: there was no room for them, or they could not be written.
pub fn dropped() -> Counter {
    DROPPED.clone()
}

/// The way to the log; clones share it.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Entry>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
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
        let waiting = Arc::<AtomicUsize>::default();
        let written = waiting.clone();
        thread::Builder::new().name("log".into()).spawn(move || write(to, &entries, &written))?;
        Ok(Self { queue, waiting })
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
    pub fn say(&self, text: impl std::fmt::Display) {
        self.put(format!("switchyard: {text}\n").into_bytes());
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
        let trace = match backtrace.status() {
            BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        // What is not logged is said all the same: a panic is a fault of the program.
        match tracing::enabled!(tracing::Level::ERROR) {
            true => tracing::error!(thread, at, "panicked: {why}{trace}"),
            false => self.say(format_args!("thread '{thread}' panicked at {at}: {why}{trace}")),
        }
    }
}

/// What a panic was given to say.
pub fn payload(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn write(mut to: impl Write, entries: &Receiver<Entry>, waiting: &AtomicUsize) {
    for entry in entries {
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
