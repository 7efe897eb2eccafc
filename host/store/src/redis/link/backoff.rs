//! When a server that says `CLUSTERDOWN` is asked again. The client library ends a connection at each such answer, with everything
//! that is asked over it, so what has a key is not even sent for a while, which grows.

use arc_swap::ArcSwapOption;
use fred::error::{Error, ErrorKind};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Twice as long each time, from the first to the second.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(2);

/// Empty while the server does what it is asked.
#[derive(Default)]
pub(super) struct Backoff(ArcSwapOption<Down>);

struct Down {
    error: String,
    until: Instant,
    pause: Duration,
}

impl Backoff {
    /// What the server said, while it is not to be asked.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &*self.0.load() {
            Some(down) if Instant::now() < down.until => {
                Err(Error::new(ErrorKind::Cluster, down.error.clone()))
            }
            _ => Ok(()),
        }
    }

    /// What came of a command with a key; `None` is no error.
    pub(super) fn answered(&self, error: Option<&Error>) {
        let (before, now) = (self.0.load(), Instant::now());
        match error.map(Error::details) {
            None if before.is_some() => self.0.store(None),
            // Of those that were asked at the same time, one counts.
            Some(error)
                if error.starts_with("CLUSTERDOWN")
                    && before.as_ref().is_none_or(|down| now >= down.until) =>
            {
                let pause = before.as_ref().map_or(SHORTEST, |down| (2 * down.pause).min(LONGEST));
                self.0.store(Some(Arc::new(Down { error: error.to_owned(), until: now + pause, pause })));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_down_is_asked_less_and_less_until_it_answers() {
        let (backoff, down) = (Backoff::default(), Error::new(ErrorKind::Cluster, "CLUSTERDOWN it is"));
        let asked_within = async |span: Duration| {
            let (end, mut asked) = (Instant::now() + span, 0);
            while Instant::now() < end {
                if backoff.check().is_ok() {
                    asked += 1;
                    // Two at once are one.
                    backoff.answered(Some(&down));
                    backoff.answered(Some(&down));
                }
                advance(Duration::from_millis(10)).await;
            }
            asked
        };
        assert_eq!(asked_within(Duration::from_millis(1750)).await, 3);
        assert_eq!(asked_within(Duration::from_secs(60)).await, 30);
        advance(LONGEST).await;
        assert!(backoff.check().is_ok());
        backoff.answered(Some(&Error::new(ErrorKind::Timeout, "late")));
        backoff.answered(None);
        assert!(backoff.check().is_ok());
        backoff.answered(Some(&Error::new(ErrorKind::Unknown, "ERR of the command's own")));
        assert!(backoff.check().is_ok());
        assert_eq!(asked_within(Duration::from_millis(1750)).await, 3, "from the beginning");
    }
}
