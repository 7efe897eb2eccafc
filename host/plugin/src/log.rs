//! Guests' log lines on their way to the operator's log.

use super::answers::clip;
use super::bindings::log::Level;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one plugin, over all its instances, in one [`WINDOW`]; what is more is counted.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Bytes of one line.
const MAX_LINE: usize = 4096;

/// Lets through as much of a plugin's logging as an operator can read.
pub(crate) struct LogGate(Mutex<Window>);

struct Window {
    opened: Instant,
    lines: u32,
    suppressed: u64,
}

impl LogGate {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Window { opened: Instant::now(), lines: 0, suppressed: 0 }))
    }

    pub(crate) fn write(&self, (plugin, version): (&str, &str), room: &str, level: Level, text: &str) {
        // The level of an event is part of its call site, so there is one a level.
        macro_rules! write_at {
            ($level:ident) => {
                if tracing::enabled!(target: "switchyard::guest", tracing::Level::$level) && self.admit(plugin) {
                    let text = clip(text, MAX_LINE);
                    let room = (!room.is_empty()).then_some(room);
                    tracing::event!(target: "switchyard::guest", tracing::Level::$level, plugin, version, room, "{text}");
                }
            };
        }
        match level {
            Level::Trace => write_at!(TRACE),
            Level::Debug => write_at!(DEBUG),
            Level::Info => write_at!(INFO),
            Level::Warn => write_at!(WARN),
            Level::Error => write_at!(ERROR),
        }
    }

    fn admit(&self, plugin: &str) -> bool {
        let (admitted, suppressed) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if suppressed > 0 {
            tracing::warn!(target: "switchyard::guest", plugin, suppressed, "log lines suppressed: over {LINES} a second");
        }
        admitted
    }
}

impl Window {
    /// Whether one more line goes through, and how many did not in the window that has just ended.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut reported = 0;
        if now.duration_since(self.opened) >= WINDOW {
            reported = self.suppressed;
            *self = Self { opened: now, lines: 0, suppressed: 0 };
        }
        if self.lines < LINES {
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
        let mut window = Window { opened: start, lines: 0, suppressed: 0 };
        let admitted = (0..25).filter(|_| window.admit(start).0).count();
        assert_eq!(admitted, 20);
        assert_eq!(window.admit(start + WINDOW), (true, 5));
        assert_eq!(window.admit(start + WINDOW), (true, 0));
    }
}
