//! Evaluating filters: which of them a message passes, in one call for all. If that call fails, further calls
//! find out whether the filters of one principal or the message itself are the cause, so that nobody loses
//! messages because of the filters of others.

use super::blame::Blame;
use super::failure::{CallFailure, PluginFunction};
use super::filters::{FilterId, Plan};
use super::governor::{Governor, OnFailure};
use super::hook_types::Rejection;
use super::instance::Instance;
use super::mirrored_call::{MirroredCall, MirroredMessage};
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// How many calls may fail while searching for the cause of a failure. Each may take a call's budget.
const MAX_SEARCH_FAILURES: usize = 8;

/// For whom filters are evaluated. This decides who is blamed if the plugin fails.
#[derive(Clone, Copy)]
pub enum Audience<'a> {
    /// For the members of the room, when the message is published, with the publisher's id, if it is known.
    Members(Option<&'a str>),
    /// For one principal, given by its id, that reads the history.
    HistoryReader(&'a str),
}

/// The results of several filters for one message. Bit `n % 64` of word `n / 64` is that of the n-th filter.
#[derive(Default)]
pub struct FilterResults {
    /// The message passes the filter.
    pub passed: Vec<u64>,
    /// The filter could not be evaluated, and the message is lost for its members.
    pub lost: Vec<u64>,
}

/// A message, as filters are evaluated for it.
#[derive(Clone, Copy)]
struct MessageRef<'a> {
    room: &'a str,
    event: &'a str,
    data: &'a [u8],
}

/// A principal, if known, and the positions of its filters among those that the guest evaluates.
type OwnedFilters = (Option<Arc<str>>, Vec<usize>);

impl FilterResults {
    /// Whether the message passes the n-th filter.
    pub fn passes(&self, n: usize) -> bool {
        bit(&self.passed, n)
    }

    /// Whether the n-th filter could not be evaluated.
    pub fn is_lost(&self, n: usize) -> bool {
        bit(&self.lost, n)
    }

    fn clear(&mut self, filters: usize) {
        for words in [&mut self.passed, &mut self.lost] {
            words.clear();
            words.resize(filters.div_ceil(64), 0);
        }
    }

    /// `None` marks the filter as lost.
    fn set(&mut self, n: usize, passes: Option<bool>) {
        let words = if passes.is_none() { &mut self.lost } else { &mut self.passed };
        words[n / 64] |= u64::from(passes.unwrap_or(true)) << (n % 64);
    }
}

fn bit(words: &[u64], n: usize) -> bool {
    words.get(n / 64).is_some_and(|word| word >> (n % 64) & 1 == 1)
}

impl Governor {
    /// [`filter`](Self::filter) for members of a room, if the publisher is not known. `passed` receives the
    /// words of [`FilterResults::passed`].
    ///
    /// # Errors
    ///
    /// Fails if the plugin failed and failures are denied. Then `passed` is valid only for filters that need
    /// no call.
    pub fn matches(
        &mut self,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[FilterId],
        passed: &mut Vec<u64>,
    ) -> Result<(), Rejection> {
        let mut results = FilterResults { passed: mem::take(passed), lost: vec![] };
        let answer = self.filter(room, event, data, ids, Audience::Members(None), &mut results);
        *passed = results.passed;
        answer
    }

    /// The hook `deliver`: which of the filters `ids` a message passes. Makes one call if nothing fails, and
    /// none if the plans of all filters are known. `event` is empty for a message without one, and `data` is
    /// JSON.
    ///
    /// # Errors
    ///
    /// Fails if the plugin failed and failures are denied; the error describes the last failure. `results` is
    /// valid in any case: it marks the filters for which the message is lost, and has the results of all
    /// others.
    pub fn filter(
        &mut self,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[FilterId],
        audience: Audience<'_>,
        results: &mut FilterResults,
    ) -> Result<(), Rejection> {
        results.clear(ids.len());
        let mut guest_ids = mem::take(&mut self.guest_ids);
        let mut guest_positions = mem::take(&mut self.guest_positions);
        let message = MessageRef { room, event, data };
        let mut answer = self.apply_plans(ids, audience, room, &mut guest_ids, &mut guest_positions, results);
        if answer.is_ok() && !guest_ids.is_empty() {
            let call = |instance: &mut Instance| instance.matches(room, event, data, &guest_ids);
            match self.try_call(PluginFunction::Matches, call) {
                Ok(words) => {
                    guest_positions
                        .iter()
                        .enumerate()
                        .for_each(|(i, n)| results.set(*n, Some(bit(&words, i))));
                    audience.publisher().into_iter().for_each(|id| self.record_success(Blame::Principal(id)));
                    self.record_success(audience.blame(room));
                }
                Err(failure) => {
                    let (answers, rejection) = self.find_culprits(message, &guest_ids, audience, &failure);
                    let lost = (self.on_failure == OnFailure::Allow).then_some(true);
                    guest_positions
                        .iter()
                        .zip(answers)
                        .for_each(|(n, answer)| results.set(*n, answer.or(lost)));
                    answer = Err(rejection);
                }
            }
        }
        (self.guest_ids, self.guest_positions) = (guest_ids, guest_positions);
        let passed = results.passed.iter().map(|word| word.count_ones()).sum();
        self.stats().record_filtering(ids.len(), passed);
        if answer.is_ok() {
            self.mirror("deliver", |this| {
                let filters = ids
                    .iter()
                    .zip(0..)
                    .map(|(id, n)| (this.filters.canonical(*id).into(), results.passes(n)));
                MirroredCall::Deliver(MirroredMessage::new(room, event, data), filters.collect())
            });
        }
        match answer {
            Err(rejection) => self.unless_allowed(rejection, ()),
            Ok(()) => Ok(()),
        }
    }

    /// Starts an instance for a message, unless its publisher or its audience is quarantined.
    /// Otherwise a publisher whose messages fail could keep the plugin busy with them.
    fn admit_message(&mut self, audience: Audience<'_>, room: &str) -> Result<(), Rejection> {
        if let Some(publisher) = audience.publisher() {
            self.admit(Blame::Principal(publisher))?;
        }
        self.admit(audience.blame(room))
    }

    /// Sets the results of all filters that need no call. Of those that the guest must evaluate, `guest_ids`
    /// and `guest_positions` receive the ids and the positions in `ids`; an instance has been started for
    /// them.
    fn apply_plans(
        &mut self,
        ids: &[FilterId],
        audience: Audience<'_>,
        room: &str,
        guest_ids: &mut Vec<u32>,
        guest_positions: &mut Vec<usize>,
        results: &mut FilterResults,
    ) -> Result<(), Rejection> {
        guest_ids.clear();
        guest_positions.clear();
        let admitted = match ids.iter().any(|id| self.filters.plan(*id) == Plan::Guest) {
            // Starting an instance may change plans, so it must come before they are read.
            true => self.admit_message(audience, room),
            false => Ok(()),
        };
        self.apply_suspensions();
        let lost = (self.on_failure == OnFailure::Allow).then_some(true);
        // The clock is read only if a filter may be suspended.
        let now = self.filters.has_suspensions().then(Instant::now);
        for (n, id) in ids.iter().enumerate() {
            match self.filters.current_plan(*id, now) {
                None => results.set(n, lost),
                Some(Plan::Guest) if admitted.is_err() => results.set(n, lost),
                Some(Plan::Guest) => {
                    guest_ids.push(id.0);
                    guest_positions.push(n);
                }
                Some(plan) => results.set(n, Some(plan == Plan::All)),
            }
        }
        admitted
    }

    /// Evaluates the filters of some principals at a time, by bisection, until it is known which ones fail.
    /// Those get no result. If the call fails even with the filters of each single principal, the message is
    /// to blame.
    fn find_culprits(
        &mut self,
        message: MessageRef<'_>,
        guest_ids: &[u32],
        audience: Audience<'_>,
        failure: &CallFailure,
    ) -> (Vec<Option<bool>>, Rejection) {
        let mut answers = vec![None; guest_ids.len()];
        let owners = self.group_by_owner(guest_ids);
        let (mut failing, mut culprits) = (vec![], vec![]);
        let (mut failures_left, mut any_answered) = (MAX_SEARCH_FAILURES, false);
        if owners.len() > 1 {
            failing.push(0..owners.len());
        }
        while let Some(range) = failing.pop() {
            if range.len() == 1 {
                culprits.push(range.start);
                continue;
            }
            // The last culprit comes first, and is tried on its own.
            let begins_with_suspect =
                range.start == 0 && owners[0].0.is_some() && owners[0].0 == self.last_culprit;
            let middle = if begins_with_suspect { 1 } else { range.start.midpoint(range.end) };
            for part in [range.start..middle, middle..range.end] {
                if failures_left == 0 || self.ensure_instance().is_err() {
                    break;
                }
                let positions: Vec<usize> =
                    owners[part.clone()].iter().flat_map(|(_, positions)| positions).copied().collect();
                let ids: Vec<u32> = positions.iter().map(|position| guest_ids[*position]).collect();
                let MessageRef { room, event, data } = message;
                let call = |instance: &mut Instance| instance.matches(room, event, data, &ids);
                match self.try_call(PluginFunction::Matches, call) {
                    Ok(words) => {
                        positions.iter().enumerate().for_each(|(i, n)| answers[*n] = Some(bit(&words, i)));
                        any_answered = true;
                    }
                    Err(_) => {
                        failures_left -= 1;
                        failing.push(part);
                    }
                }
            }
        }
        let culprits: Vec<_> = culprits
            .iter()
            .filter_map(|culprit| owners[*culprit].0.as_ref())
            .filter(|_| any_answered)
            .collect();
        let publisher = match audience {
            Audience::Members(publisher) if owners.len() > 1 && !any_answered => publisher,
            // Both the message and the filters are its own.
            Audience::Members(Some(publisher))
                if owners.len() == 1 && owners[0].0.as_deref() == Some(publisher) =>
            {
                Some(publisher)
            }
            _ => None,
        };
        let mut rejection = None;
        for culprit in &culprits {
            rejection = Some(self.handle_failure(failure, Blame::Principal(culprit)));
        }
        self.last_culprit = culprits.last().map(|culprit| (*culprit).clone());
        let blame = publisher.map_or(audience.blame(message.room), Blame::Principal);
        (answers, rejection.unwrap_or_else(|| self.handle_failure(failure, blame)))
    }

    /// Groups positions in `guest_ids` by the filter's owner. The last culprit comes first.
    fn group_by_owner(&self, guest_ids: &[u32]) -> Vec<OwnedFilters> {
        let mut groups: BTreeMap<Option<&Arc<str>>, Vec<usize>> = BTreeMap::new();
        for (n, id) in guest_ids.iter().enumerate() {
            groups.entry(self.filters.owner(FilterId(*id))).or_default().push(n);
        }
        let mut groups: Vec<OwnedFilters> =
            groups.into_iter().map(|(owner, positions)| (owner.cloned(), positions)).collect();
        groups.sort_by_key(|(owner, _)| owner.is_none() || *owner != self.last_culprit);
        groups
    }
}

impl<'a> Audience<'a> {
    fn publisher(self) -> Option<&'a str> {
        match self {
            Audience::Members(publisher) => publisher,
            Audience::HistoryReader(_) => None,
        }
    }

    /// Whom to blame for a failure as long as nothing more is known.
    fn blame(self, room: &'a str) -> Blame<'a> {
        match self {
            Audience::Members(publisher) => Blame::Messages { room, publisher },
            Audience::HistoryReader(id) => Blame::HistoryReader(id),
        }
    }
}
