//! Shows the progress of a long feed on standard error.

use super::tally::Tally;
use crate::{
    count::grouped,
    output::{replace_stderr_line, write_stderr_line},
};
use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How often the line is updated, on a terminal and elsewhere.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(250);
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// A feed that takes less than this shows no progress.
const MIN_DELAY: Duration = Duration::from_secs(1);

pub(super) struct ProgressLine {
    began: Instant,
    ticks: Interval,
    /// Number of lines in the feed, if known.
    total: Option<u64>,
    is_terminal: bool,
    /// The last line of the terminal is the progress, and must be replaced.
    is_shown: bool,
}

impl ProgressLine {
    pub(super) fn new(total: Option<u64>) -> Self {
        let is_terminal = stderr().is_terminal();
        let interval = if is_terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
        let began = Instant::now();
        let mut ticks = interval_at(began + interval.max(MIN_DELAY), interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { began, ticks, total, is_terminal, is_shown: false }
    }

    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn show(&mut self, tally: &Tally) {
        let line = format_progress(tally, self.total, self.elapsed());
        if self.is_terminal {
            replace_stderr_line(line);
            self.is_shown = true;
        } else {
            write_stderr_line(line);
        }
    }

    /// Removes the line before something else is printed.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            replace_stderr_line("");
        }
    }
}

fn format_progress(tally: &Tally, total: Option<u64>, elapsed: Duration) -> String {
    let of = total.map_or(String::new(), |total| format!(" of {}", grouped(total)));
    let rate = tally.published as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{}{of} published, {}/s", grouped(tally.published), grouped(rate.round() as u64));
    if tally.refused > 0 {
        text += &format!(", {} refused", grouped(tally.refused));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_formatted_as_one_line() {
        let mut tally = Tally::new(false);
        tally.published = 12_000;
        let took = Duration::from_secs(10);
        assert_eq!(format_progress(&tally, Some(1_000_000), took), "12,000 of 1,000,000 published, 1,200/s");
        tally.refused = 3;
        assert_eq!(format_progress(&tally, None, took), "12,000 published, 1,200/s, 3 refused");
    }
}
