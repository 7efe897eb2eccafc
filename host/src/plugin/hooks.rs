//! The questions a shard puts to its governor. A hook that the plugin does not have answers what changes nothing.

use super::answers::{Connecting, Counts, Grant, Granted, Limits, Principal, Refusal, RefusalCode, Verdict};
use super::failure::Call;
use super::filters::{FilterId, Plan};
use super::governor::{Governor, OnFailure};
use super::load::Hooks;
use super::shadow::{Message, Question, Subscribing};
use std::mem;
use std::time::Instant;

impl Governor {
    /// Whether a connection may be, once its key was found good; the limits hold for the connection.
    pub fn connect(&mut self, from: &Connecting) -> Result<Limits, Refusal> {
        if !self.hooks().connect {
            return Ok(Limits::default());
        }
        let answer = match self.ask(Call::Connect, |instance| instance.connect(from)) {
            Ok(answer) => answer,
            Err(refusal) => self.unless_allowed(refusal, Limits::default()),
        };
        self.show(|_| Question::Connect(from.clone(), answer.clone()));
        answer
    }

    fn show(&self, question: impl FnOnce(&Self) -> Question) {
        if let Some(mirror) = &self.mirror {
            mirror.show(question(self));
        }
    }

    /// Whether a room of that name may be; `Some` is the name to use instead, which the host must check like
    /// any other.
    pub fn validate(&mut self, room: &str) -> Result<Option<String>, Refusal> {
        if !self.hooks().room {
            return Ok(None);
        }
        if let Some(canonical) = self.rooms.get(room, Instant::now()) {
            return Ok(canonical);
        }
        let answer = match self.ask(Call::Room, |instance| instance.room(room)) {
            Ok(answer) => answer.map(|verdict| {
                let canonical = verdict.canonical.filter(|canonical| canonical != room);
                self.rooms.put(room, canonical.clone(), verdict.cache, Instant::now());
                canonical
            }),
            Err(refusal) => self.unless_allowed(refusal, None),
        };
        self.show(|_| Question::Room(room.to_owned(), answer.clone()));
        answer
    }

    /// Whether `who` may join `room`, and which messages reach it. `filter` is JSON as the client sent it.
    /// The grant's filter is a reference that the caller owns; see [`release`](Self::release).
    pub fn authorize(
        &mut self,
        who: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<Grant, Refusal> {
        let answer = self.grant(who, room, filter, counts);
        let hooks = self.hooks();
        if hooks.subscribe || hooks.deliver {
            self.show(|this| {
                let canonical = |id| this.filters.canonical(id).to_owned();
                let answer = answer.clone().map(|grant| (grant.filter.map(canonical), grant.limits));
                let (who, room, filter) = (who.clone(), room.to_owned(), filter.map(str::to_owned));
                Question::Subscribe(Box::new(Subscribing { who, room, filter, counts, answer }))
            });
        }
        answer
    }

    fn grant(
        &mut self,
        who: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<Grant, Refusal> {
        let hooks = self.hooks();
        let granted = if hooks.subscribe {
            match self.ask(Call::Subscribe, |instance| instance.subscribe(who, room, filter, counts)) {
                Ok(answer) => answer?,
                Err(refusal) => return self.unless_allowed(refusal, Grant::default()),
            }
        } else {
            Granted { filter: filter.map(str::to_owned), limits: Limits::default() }
        };
        let Some(canonical) = granted.filter else {
            return Ok(Grant { filter: None, limits: granted.limits });
        };
        if !hooks.deliver {
            let message = format!("plugin '{}' takes no filters: subscribe without one", self.name());
            return Err(Refusal::new(RefusalCode::Invalid, message));
        }
        let filter = self.intern(&canonical)?;
        Ok(Grant { filter, limits: granted.limits })
    }

    /// What becomes of a message that a principal with id `who` publishes; `event` is empty for none.
    pub fn check(&mut self, who: &str, room: &str, event: &str, data: &[u8]) -> Result<Verdict, Refusal> {
        if !self.hooks().publish {
            return Ok(Verdict::Pass);
        }
        let answer = match self.ask(Call::Publish, |instance| instance.publish(who, room, event, data)) {
            Ok(answer) => answer,
            Err(refusal) => self.unless_allowed(refusal, Verdict::Pass),
        };
        self.show(|_| Question::Publish(Message::of(room, event, data), who.to_owned(), answer.clone()));
        answer
    }

    /// Which of `ids` a message passes, in one call of the guest at most: bit `i % 64` of `out[i / 64]`
    /// answers for `ids[i]`, and no bits beyond are set. After a refusal, `out` still answers for the filters
    /// that need no asking; the others pass nothing.
    pub fn matches(
        &mut self,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[FilterId],
        out: &mut Vec<u64>,
    ) -> Result<(), Refusal> {
        out.clear();
        out.resize(ids.len().div_ceil(64), 0);
        let mut asked = mem::take(&mut self.asked);
        let answer = self.ask_matches(room, event, data, ids, &mut asked);
        let (words, refusal) = match answer {
            Ok(words) => (words, Ok(())),
            Err(refusal) => (Vec::new(), self.unless_allowed(refusal, ())),
        };
        let unanswered = refusal.is_ok();
        let mut position = 0;
        for (i, id) in ids.iter().enumerate() {
            let passes = match self.filters.plan(*id) {
                Plan::All => true,
                Plan::None => false,
                Plan::Guest => {
                    let (word, bit) = (position / 64, position % 64);
                    position += 1;
                    words.get(word).map_or(unanswered, |word| word >> bit & 1 == 1)
                }
            };
            out[i / 64] |= u64::from(passes) << (i % 64);
        }
        self.asked = asked;
        self.stats().filtered(ids.len(), out.iter().map(|word| word.count_ones()).sum());
        if refusal.is_ok() {
            self.show(|this| {
                let passes = |n: usize| out[n / 64] >> (n % 64) & 1 == 1;
                let filters =
                    ids.iter().zip(0..).map(|(id, n)| (this.filters.canonical(*id).into(), passes(n)));
                Question::Deliver(Message::of(room, event, data), filters.collect())
            });
        }
        refusal
    }

    /// One bit for each of `ids` that is planned to be asked for, in their order. `asked` is scratch.
    fn ask_matches(
        &mut self,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[FilterId],
        asked: &mut Vec<u32>,
    ) -> Result<Vec<u64>, Refusal> {
        if !ids.iter().any(|id| self.filters.plan(*id) == Plan::Guest) {
            return Ok(Vec::new());
        }
        // A fresh instance may have other plans, so it has to be there before they are read.
        self.instance()?;
        asked.clear();
        asked.extend(ids.iter().filter(|id| self.filters.plan(**id) == Plan::Guest).map(|id| id.0));
        match asked.is_empty() {
            true => Ok(Vec::new()),
            false => self.ask(Call::Matches, |instance| instance.matches(room, event, data, asked)),
        }
    }

    /// A filter's number, with one more reference; compiled if it is new or had to be closed.
    pub(super) fn intern(&mut self, canonical: &str) -> Result<Option<FilterId>, Refusal> {
        let known = self.filters.find(canonical);
        if let Some(id) = known.filter(|id| !self.filters.is_closed(*id)) {
            self.filters.retain(id);
            return Ok(Some(id));
        }
        let Some(id) = known.or_else(|| self.filters.reserve(canonical)) else {
            let message = format!("plugin '{}' holds too many filters already", self.name());
            return Err(Refusal::new(RefusalCode::Limit, message));
        };
        let answer = self.ask(Call::Compile, |instance| instance.compile(id.0, canonical));
        let refusal = match answer {
            Ok(Ok(plan)) => {
                match known {
                    Some(id) => {
                        self.filters.set_plan(id, plan);
                        self.filters.retain(id);
                    }
                    None => self.filters.insert(id, canonical, plan),
                }
                self.stats().filters(self.filters.len());
                return Ok(Some(id));
            }
            Ok(Err(reason)) => Err(Refusal::new(RefusalCode::Invalid, reason)),
            Err(refusal) => self.unless_allowed(refusal, None),
        };
        if known.is_none() {
            self.filters.give_back(id);
        }
        refusal
    }

    fn hooks(&self) -> Hooks {
        self.plugin().info().hooks
    }

    fn unless_allowed<T>(&self, refusal: Refusal, default: T) -> Result<T, Refusal> {
        match self.on_failure {
            OnFailure::Deny => Err(refusal),
            OnFailure::Allow => Ok(default),
        }
    }
}
