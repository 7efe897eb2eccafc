//! When a server that has answered `CLUSTERDOWN` is asked again. The client library closes a connection with
//! each such answer, and fails all other commands on it. So commands with a key are not sent to that server
//! for a while, which grows.

use arc_swap::ArcSwapOption;
use fred::error::{Error, ErrorKind};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The delay doubles with each such answer, from the first to the second.
const MIN_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Empty while the server carries commands out.
#[derive(Default)]
pub(super) struct Backoff(ArcSwapOption<Down>);

struct Down {
    error: String,
    until: Instant,
    delay: Duration,
}

impl Backoff {
    /// The error of the server, while commands must not be sent to it.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &*self.0.load() {
            Some(down) if Instant::now() < down.until => {
                Err(Error::new(ErrorKind::Cluster, down.error.clone()))
            }
            _ => Ok(()),
        }
    }

    /// A command with a key was answered, maybe with an error.
    pub(super) fn answered(&self, error: Option<&Error>) {
        let (before, now) = (self.0.load(), Instant::now());
        match error.map(Error::details) {
            None if before.is_some() => self.0.store(None),
            // Commands that fail at the same time count as one.
            Some(error)
                if error.starts_with("CLUSTERDOWN")
                    && before.as_ref().is_none_or(|down| now >= down.until) =>
            {
                let delay = before.as_ref().map_or(MIN_DELAY, |down| (2 * down.delay).min(MAX_DELAY));
                self.0.store(Some(Arc::new(Down { error: error.to_owned(), until: now + delay, delay })));
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
    async fn a_cluster_that_is_down_is_asked_ever_more_rarely_until_it_answers() {
        let (backoff, down) = (Backoff::default(), Error::new(ErrorKind::Cluster, "CLUSTERDOWN it is"));
        let count_within = async |span: Duration| {
            let (end, mut count) = (Instant::now() + span, 0);
            while Instant::now() < end {
                if backoff.check().is_ok() {
                    count += 1;
                    // Two at the same time count as one.
                    backoff.answered(Some(&down));
                    backoff.answered(Some(&down));
                }
                advance(Duration::from_millis(10)).await;
            }
            count
        };
        assert_eq!(count_within(Duration::from_millis(1750)).await, 3);
        assert_eq!(count_within(Duration::from_secs(60)).await, 30);
        advance(MAX_DELAY).await;
        assert!(backoff.check().is_ok());
        backoff.answered(Some(&Error::new(ErrorKind::Timeout, "late")));
        backoff.answered(None);
        assert!(backoff.check().is_ok());
        backoff.answered(Some(&Error::new(ErrorKind::Unknown, "ERR of the command's own")));
        assert!(backoff.check().is_ok());
        assert_eq!(count_within(Duration::from_millis(1750)).await, 3, "from the beginning");
    }
}
