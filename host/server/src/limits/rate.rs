//! How often something may happen, as a configuration writes it: "100/s", "20/m".

use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// So many in a second or a minute; as many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    most: u32,
    per: Duration,
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a rate; expected e.g. \"100/s\" or \"20/m\"");
        let (most, per) = text.split_once('/').ok_or_else(wrong)?;
        let most = most.parse().ok().filter(|most| *most > 0).ok_or_else(wrong)?;
        let per = match per {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return Err(wrong()),
        };
        Ok(Self { most, per })
    }
}

/// What is left of a rate: a token for each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.most.into(), at: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let earned = (now - self.at).as_secs_f64() / rate.per.as_secs_f64() * f64::from(rate.most);
        (self.left, self.at) = ((self.left + earned).min(rate.most.into()), now);
    }

    /// Takes a token, where there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) {
        self.refill(rate, now);
        self.left = (self.left - 1.0).max(0.0);
    }

    /// How long until there is a token; `None`: there is one.
    pub(super) fn wait(&mut self, rate: Rate, now: Instant) -> Option<Duration> {
        self.refill(rate, now);
        (self.left < 1.0).then(|| rate.per.mul_f64((1.0 - self.left) / f64::from(rate.most)))
    }

    pub(super) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.left >= rate.most.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_holds_a_period_and_fills_evenly() {
        let rate = Rate::try_from("20/m".to_owned()).unwrap();
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        for _ in 0..20 {
            assert_eq!(bucket.wait(rate, start), None);
            bucket.take(rate, start);
        }
        assert_eq!(bucket.wait(rate, start), Some(Duration::from_secs(3)));
        assert_eq!(bucket.wait(rate, start + Duration::from_millis(3001)), None);
        assert!(bucket.is_full(rate, start + Duration::from_secs(61)));
        for wrong in ["", "20", "0/s", "-1/s", "20/h", "1.5/s", "/s", "20 / m"] {
            assert!(Rate::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
