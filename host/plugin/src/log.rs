//! Log lines of plugins, on their way to the operator's log: limited in number and length.

use super::hook_types::clip;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Level;

/// How many lines a plugin may write per [`WINDOW`], over all its instances. Further lines are dropped and
/// counted.
const MAX_LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Maximum length of one line, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// Limits the log of one plugin to what an operator can read.
pub(crate) struct LogLimiter(Mutex<LogWindow>);

struct LogWindow {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl LogLimiter {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LogWindow { began: Instant::now(), lines: 0, suppressed: 0 }))
    }

    pub(crate) fn write(&self, (plugin, version): (&str, &str), room: &str, level: Level, text: &str) {
        // `tracing` fixes the level of an event at its call site, so each level needs its own.
        macro_rules! write_at {
            ($level:ident) => {
                if tracing::enabled!(target: "switchyard::guest", tracing::Level::$level) && self.admit(plugin) {
                    let text = clip(text, MAX_LINE_BYTES);
                    let room = (!room.is_empty()).then_some(room);
                    tracing::event!(target: "switchyard::guest", tracing::Level::$level, plugin, version, room, "{text}");
                }
            };
        }
        match level {
            Level::TRACE => write_at!(TRACE),
            Level::DEBUG => write_at!(DEBUG),
            Level::INFO => write_at!(INFO),
            Level::WARN => write_at!(WARN),
            Level::ERROR => write_at!(ERROR),
        }
    }

    fn admit(&self, plugin: &str) -> bool {
        let (admitted, suppressed) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if suppressed > 0 {
            tracing::warn!(target: "switchyard::guest", plugin, suppressed, "log lines suppressed: more than {MAX_LINES} a second");
        }
        admitted
    }
}

impl LogWindow {
    /// Whether one more line may be written, and how many lines were suppressed in the window that has just
    /// ended.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut reported = 0;
        if now.duration_since(self.began) >= WINDOW {
            reported = self.suppressed;
            *self = Self { began: now, lines: 0, suppressed: 0 };
        }
        if self.lines < MAX_LINES {
            self.lines += 1;
            return (true, reported);
        }
        self.suppressed += 1;
        (false, reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_limit_are_counted_and_reported_once() {
        let start = Instant::now();
        let mut window = LogWindow { began: start, lines: 0, suppressed: 0 };
        let admitted = (0..25).filter(|_| window.admit(start).0).count();
        assert_eq!(admitted, 20);
        assert_eq!(window.admit(start + WINDOW), (true, 5));
        assert_eq!(window.admit(start + WINDOW), (true, 0));
    }
}
