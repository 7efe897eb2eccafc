//! When each message of a recorded feed is published.

use std::{str::FromStr, time::Duration};
use tokio::time::Instant;

/// The speed of publishing, compared with the recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speed {
    /// Positive and finite.
    Times(f64),
    /// Without pauses.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('x').unwrap_or(text).parse() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Self::Times(times)),
            _ => Err("expected a speed such as 10x, 0.5x or max".to_owned()),
        }
    }
}

/// No message waits longer than a year. A longer gap is a mistake in the feed, but no reason to panic.
const MAX_WAIT_SECONDS: f64 = 365.0 * 86_400.0;

/// Maps the times of a recording to the present. A message that is late is due at once, and does not delay
/// the next.
pub(crate) struct Pacer {
    speed: Speed,
    /// The time of the first message in the recording, and when it was due.
    start: Option<(u64, Instant)>,
}

impl Pacer {
    pub(crate) fn new(speed: Speed) -> Self {
        Self { speed, start: None }
    }

    /// When to publish a message that was recorded at `time`, in Unix milliseconds.
    pub(crate) fn due(&mut self, time: Option<u64>, now: Instant) -> Instant {
        let (Speed::Times(times), Some(time)) = (self.speed, time) else { return now };
        let (first, start) = *self.start.get_or_insert((time, now));
        let seconds = time.saturating_sub(first) as f64 / 1000.0 / times;
        start + Duration::from_secs_f64(seconds.min(MAX_WAIT_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_parsed() {
        assert_eq!("10x".parse(), Ok(Speed::Times(10.0)));
        assert_eq!("0.5".parse(), Ok(Speed::Times(0.5)));
        assert_eq!("max".parse(), Ok(Speed::Max));
        for bad in ["0x", "-1x", "fast", "", "infx", "NaN"] {
            assert!(bad.parse::<Speed>().unwrap_err().contains("10x"), "{bad}");
        }
    }

    #[test]
    fn gaps_are_those_of_the_recording_divided_by_the_speed() {
        let now = Instant::now();
        let mut pacer = Pacer::new(Speed::Times(10.0));
        assert_eq!(pacer.due(Some(1000), now), now);
        assert_eq!(pacer.due(Some(3000), now), now + Duration::from_millis(200));
        assert_eq!(pacer.due(Some(500), now), now, "a message from before the first is due at once");
        pacer.due(Some(u64::MAX), now);
        assert_eq!(Pacer::new(Speed::Max).due(Some(9), now), now);
    }
}
