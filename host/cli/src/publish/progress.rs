//! How far a long feed is, on standard error.

use super::window::Tally;
use crate::output::{progress, remark};
use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

pub(super) struct Progress {
    began: Instant,
    ticks: Interval,
    /// Of the feed, where that is known.
    total: Option<u64>,
    terminal: bool,
    /// There is a line on the terminal to be replaced.
    shown: bool,
}

impl Progress {
    pub(super) fn new(total: Option<u64>) -> Self {
        let terminal = stderr().is_terminal();
        let every = Duration::from_millis(if terminal { 250 } else { 5000 });
        let began = Instant::now();
        // What takes less than a second says nothing.
        let mut ticks = interval_at(began + every.max(Duration::from_secs(1)), every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { began, ticks, total, terminal, shown: false }
    }

    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn show(&mut self, tally: &Tally) {
        let line = line(tally, self.total, self.elapsed());
        if self.terminal {
            progress(line);
            self.shown = true;
        } else {
            remark(line);
        }
    }

    /// Makes room for another line.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            progress("");
        }
    }
}

fn line(tally: &Tally, total: Option<u64>, elapsed: Duration) -> String {
    let of = total.map_or(String::new(), |total| format!(" of {}", grouped(total)));
    let rate = tally.published as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{}{of} published, {}/s", grouped(tally.published), grouped(rate.round() as u64));
    if tally.refused > 0 {
        text += &format!(", {} refused", grouped(tally.refused));
    }
    text
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_short_line() {
        let mut tally = Tally::new(false);
        tally.published = 12_000;
        let took = Duration::from_secs(10);
        assert_eq!(line(&tally, Some(1_000_000), took), "12,000 of 1,000,000 published, 1,200/s");
        tally.refused = 3;
        assert_eq!(line(&tally, None, took), "12,000 published, 1,200/s, 3 refused");
        assert_eq!(["0", "999", "1,000"], [0, 999, 1000].map(grouped).each_ref().map(String::as_str));
    }
}
