//! Holds a client to the rates of its tier. Beyond them, requests are refused, and those that never are make the
//! server read the connection more slowly. Does not count: the budget of the principal does.

use super::ClientSession;
use crate::{limits::TierRate, session::state::Decision};
use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};
use switchyard_protocol::{Close, ErrorCode, Id, Refusal, Request, reply};
use tokio::time;

/// This many requests that are refused because of a rate, within [`REFUSAL_PERIOD`], close a connection: its client
/// does not wait as it was told.
const MAX_REFUSALS: usize = 100;
const REFUSAL_PERIOD: Duration = Duration::from_secs(10);
/// The longest time for which a connection is not read, whatever the rate is.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What the rates have led to on one connection.
#[derive(Default)]
pub(super) struct RateState {
    /// When requests were refused whose client did not wait as it was told, within the last [`REFUSAL_PERIOD`].
    refusals: VecDeque<Instant>,
    /// Until when the client was last told to wait.
    retry_at: Option<Instant>,
    /// Whether that refusal is not in `refusals`, because the client had waited before.
    is_uncounted: bool,
    /// How long nothing is to be read.
    pause: Option<Duration>,
}

impl RateState {
    /// Counts a refusal that tells the client to wait. Those between which it has waited do not count. Returns whether
    /// there were too many.
    fn count_refusal(&mut self, wait: Duration, now: Instant) -> bool {
        while self.refusals.front().is_some_and(|at| now.duration_since(*at) >= REFUSAL_PERIOD) {
            self.refusals.pop_front();
        }
        let has_waited = self.retry_at.replace(now + wait).is_none_or(|at| now >= at);
        let was_uncounted = mem::replace(&mut self.is_uncounted, has_waited);
        if !has_waited {
            self.refusals.extend(was_uncounted.then_some(now));
            self.refusals.push_back(now);
        }
        self.refusals.len() >= MAX_REFUSALS
    }
}

impl ClientSession {
    /// Counts a request, and refuses it if it is beyond the rate.
    pub(super) fn count_request(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        match request {
            // To refuse them would keep a client from doing less.
            Request::Ack { .. } | Request::Unsubscribe { .. } | Request::Ping => {
                self.count_unrefused();
                Ok(())
            }
            // It has a limit of its own, and without it the connection would end.
            Request::Refresh { .. } => Ok(()),
            _ => self.take([(TierRate::Requests, 1)]),
        }
    }

    /// Counts a request that will be refused, because it is invalid.
    pub(super) fn count_invalid_request(&self) -> Result<(), Refusal> {
        self.take([(TierRate::Requests, 1)])
    }

    /// Counts a frame that is never refused because of a rate. The connection is read more slowly instead.
    pub(super) fn count_unrefused(&mut self) {
        let wait = self.connection.budget.count_request(&self.connection.key.load());
        self.rates.pause = wait.map(|wait| wait.min(MAX_PAUSE));
    }

    /// Until when nothing is to be read from the connection.
    pub(crate) fn take_pause(&mut self) -> Option<time::Instant> {
        let pause = mem::take(&mut self.rates.pause)?;
        Some(time::Instant::now() + pause)
    }

    /// Takes what the request costs in addition to being a request.
    pub(super) fn charge(&self, decision: &Decision<'_>) -> Result<(), Refusal> {
        match decision {
            Decision::Publish { message, .. } => {
                self.take([(TierRate::Publishes, 1), (TierRate::Bytes, message.data.get().len())])?;
                let (budget, share) = (&self.connection.budget, &self.connection.share);
                self.services.hub.check_tier_memory(budget, &self.connection.key.load(), share)
            }
            Decision::Subscribe { joins, .. } => self.take([(TierRate::Subscribes, joins.len())]),
            Decision::History { .. } => self.connection.budget.check_reads(&self.connection.key.load()),
            _ => Ok(()),
        }
    }

    fn take<const N: usize>(&self, wanted: [(TierRate, usize); N]) -> Result<(), Refusal> {
        self.connection.budget.take(&self.connection.key.load(), wanted)
    }

    /// How to refuse a request. If too many were refused because of a rate, the connection is closed.
    pub(super) fn refused<'a>(&mut self, id: Option<Id<'a>>, refusal: Refusal) -> Decision<'a> {
        let wait = Duration::from_millis(refusal.retry_after.unwrap_or_default());
        match refusal.code == ErrorCode::RateLimited && self.rates.count_refusal(wait, Instant::now()) {
            true => Decision::Close(reply::error(id, &refusal), Close::RateIgnored),
            false => Decision::Refuse(id, refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_hundred_refusals_in_ten_seconds_are_too_many() {
        let (start, mut rates) = (Instant::now(), RateState::default());
        for n in 0..1000 {
            assert!(!rates.count_refusal(SECOND, start + SECOND * n / 9), "refusal {n}, 9 in a second");
        }
        let later = start + SECOND * 1000;
        for n in 1..=100 {
            let is_closed = rates.count_refusal(SECOND, later + SECOND / 11 * n);
            assert_eq!(is_closed, n == 100, "refusal {n}, 11 in a second");
        }
        assert!(rates.refusals.len() <= MAX_REFUSALS + 1);
    }

    #[test]
    fn a_client_that_waits_as_it_is_told_is_never_closed() {
        let (mut now, mut rates) = (Instant::now(), RateState::default());
        for _ in 0..1000 {
            assert!(!rates.count_refusal(SECOND / 50, now));
            now += SECOND / 50;
        }
        assert!(rates.refusals.is_empty());
    }
}
