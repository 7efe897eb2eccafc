//! Which filters a message passes, in one question for all of them. Where that fails, it is found out whether one
//! principal's filters are the reason or the message, so that nobody loses messages to the filters of another.

use super::answers::Refusal;
use super::failure::{Call, Failure};
use super::filters::{FilterId, Plan};
use super::governor::{Governor, OnFailure};
use super::instance::Instance;
use super::shadow::{Message, Question};
use super::suspects::Blame;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// Questions that may fail while it is found out why one did. Each may take a call's budget.
const FAILURES: usize = 8;

/// For whom a message is looked at.
#[derive(Clone, Copy)]
pub enum Reads<'a> {
    /// For the members of its room, when it is published; who did that is asked only when the plugin failed.
    Members(&'a dyn Fn() -> Option<Arc<str>>),
    /// For a principal that reads the history.
    One(&'a str),
}

/// What filters say of a message: bit n % 64 of word n / 64 answers for the n-th.
#[derive(Default)]
pub struct Bits {
    pub passed: Vec<u64>,
    /// The filter could not be asked: the message is lost to its members.
    pub lost: Vec<u64>,
}

/// A message as a plugin is asked of it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    room: &'a str,
    event: &'a str,
    data: &'a [u8],
}

impl Bits {
    pub fn passes(&self, n: usize) -> bool {
        bit(&self.passed, n)
    }

    pub fn is_lost(&self, n: usize) -> bool {
        bit(&self.lost, n)
    }

    fn clear(&mut self, filters: usize) {
        for words in [&mut self.passed, &mut self.lost] {
            words.clear();
            words.resize(filters.div_ceil(64), 0);
        }
    }

    fn set(&mut self, n: usize, passes: Option<bool>) {
        let words = if passes.is_none() { &mut self.lost } else { &mut self.passed };
        words[n / 64] |= u64::from(passes.unwrap_or(true)) << (n % 64);
    }
}

fn bit(words: &[u64], n: usize) -> bool {
    words.get(n / 64).is_some_and(|word| word >> (n % 64) & 1 == 1)
}

impl Governor {
    /// [`filter`](Self::filter) for members of a room, where nobody knows who published. After a refusal, `out` answers for
    /// the filters that need no asking.
    pub fn matches(
        &mut self,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[FilterId],
        out: &mut Vec<u64>,
    ) -> Result<(), Refusal> {
        let mut bits = Bits { passed: mem::take(out), lost: vec![] };
        let answer = self.filter(room, event, data, ids, Reads::Members(&|| None), &mut bits);
        *out = bits.passed;
        answer
    }

    /// Which of `ids` a message passes, in one call of the guest where nothing fails. The error is what the last failure is
    /// told as; `out` says to whom the message is lost, and answers for all others.
    pub fn filter(
        &mut self,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[FilterId],
        reads: Reads<'_>,
        out: &mut Bits,
    ) -> Result<(), Refusal> {
        out.clear(ids.len());
        let (mut asked, mut places) = (mem::take(&mut self.asked), mem::take(&mut self.places));
        let answer = self.answers(Asked { room, event, data }, ids, reads, &mut asked, &mut places, out);
        (self.asked, self.places) = (asked, places);
        self.stats().filtered(ids.len(), out.passed.iter().map(|word| word.count_ones()).sum());
        if answer.is_ok() {
            self.show(|this| {
                let filters =
                    ids.iter().zip(0..).map(|(id, n)| (this.filters.canonical(*id).into(), out.passes(n)));
                Question::Deliver(Message::of(room, event, data), filters.collect())
            });
        }
        match answer {
            Err(refusal) => self.unless_allowed(refusal, ()),
            Ok(()) => Ok(()),
        }
    }

    /// `asked` and `places` are scratch: the filters that are asked of, and where they are among `ids`.
    fn answers(
        &mut self,
        message: Asked<'_>,
        ids: &[FilterId],
        reads: Reads<'_>,
        asked: &mut Vec<u32>,
        places: &mut Vec<usize>,
        out: &mut Bits,
    ) -> Result<(), Refusal> {
        asked.clear();
        places.clear();
        let admitted = match ids.iter().any(|id| self.filters.plan(*id) == Plan::Guest) {
            // A fresh instance may have other plans, so it has to be there before they are read.
            true => self.admit(match reads {
                Reads::Members(_) => Blame::Room(message.room),
                Reads::One(who) => Blame::Reader(who),
            }),
            false => Ok(()),
        };
        let (allowed, now) =
            (self.on_failure == OnFailure::Allow, self.filters.suspends().then(Instant::now));
        let lost = allowed.then_some(true);
        for (n, id) in ids.iter().enumerate() {
            match self.filters.present(*id, now) {
                None => out.set(n, lost),
                Some(Plan::Guest) if admitted.is_err() => out.set(n, lost),
                Some(Plan::Guest) => {
                    asked.push(id.0);
                    places.push(n);
                }
                Some(plan) => out.set(n, Some(plan == Plan::All)),
            }
        }
        admitted?;
        if asked.is_empty() {
            return Ok(());
        }
        let answer = self.attempt(Call::Matches, |instance| message.of(instance, asked));
        let failure = match answer {
            Ok(words) => {
                places.iter().enumerate().for_each(|(i, n)| out.set(*n, Some(bit(&words, i))));
                return Ok(());
            }
            Err(failure) => failure,
        };
        let (answers, refusal) = self.apart(message, asked, reads, &failure);
        places.iter().zip(answers).for_each(|(n, answer)| out.set(*n, answer.or(lost)));
        Err(refusal)
    }

    /// Asks of the filters of some principals at a time, until it is known which of them fail; no answer where they do. The
    /// message is to blame where it fails with the filters of all.
    fn apart(
        &mut self,
        message: Asked<'_>,
        asked: &[u32],
        reads: Reads<'_>,
        failure: &Failure,
    ) -> (Vec<Option<bool>>, Refusal) {
        let mut answers = vec![None; asked.len()];
        let groups = self.groups(asked);
        let (mut failing, mut culprits) = (vec![], vec![]);
        let (mut left, mut answered) = (FAILURES, false);
        if groups.len() > 1 {
            failing.push(0..groups.len());
        }
        while let Some(range) = failing.pop() {
            if range.len() == 1 {
                culprits.push(range.start);
                continue;
            }
            let is_suspect = range.start == 0 && groups[0].0.is_some() && groups[0].0 == self.culprit;
            let middle = if is_suspect { 1 } else { range.start.midpoint(range.end) };
            for part in [range.start..middle, middle..range.end] {
                if left == 0 || self.start().is_err() {
                    break;
                }
                let places: Vec<usize> =
                    groups[part.clone()].iter().flat_map(|(_, of)| of).copied().collect();
                let ids: Vec<u32> = places.iter().map(|place| asked[*place]).collect();
                match self.attempt(Call::Matches, |instance| message.of(instance, &ids)) {
                    Ok(words) => {
                        places.iter().enumerate().for_each(|(i, n)| answers[*n] = Some(bit(&words, i)));
                        answered = true;
                    }
                    Err(_) => {
                        left -= 1;
                        failing.push(part);
                    }
                }
            }
        }
        let unknown = match reads {
            Reads::Members(_) => Blame::Room(message.room),
            Reads::One(who) => Blame::Reader(who),
        };
        let owners = culprits.iter().filter_map(|culprit| groups[*culprit].0.as_ref());
        let owners: Vec<_> = owners.filter(|_| answered).collect();
        let publisher = match reads {
            Reads::Members(publisher) if groups.len() > 1 && !answered => publisher(),
            _ => None,
        };
        let mut refusal = None;
        for owner in &owners {
            refusal = Some(self.failed(failure, Blame::Caller(owner)));
        }
        self.culprit = owners.last().map(|owner| (*owner).clone());
        let blame = publisher.as_deref().map_or(unknown, Blame::Caller);
        (answers, refusal.unwrap_or_else(|| self.failed(failure, blame)))
    }

    /// Places in `asked` by who brought the filter, the one before others whose filter failed last.
    fn groups(&self, asked: &[u32]) -> Vec<(Option<Arc<str>>, Vec<usize>)> {
        let mut groups: BTreeMap<Option<&Arc<str>>, Vec<usize>> = BTreeMap::new();
        for (n, id) in asked.iter().enumerate() {
            groups.entry(self.filters.owner(FilterId(*id))).or_default().push(n);
        }
        let mut groups: Vec<_> = groups.into_iter().map(|(owner, places)| (owner.cloned(), places)).collect();
        groups.sort_by_key(|(owner, _)| owner.is_none() || *owner != self.culprit);
        groups
    }
}

impl Asked<'_> {
    fn of(&self, instance: &mut Instance, ids: &[u32]) -> Result<Vec<u64>, Box<Failure>> {
        instance.matches(self.room, self.event, self.data, ids)
    }
}
