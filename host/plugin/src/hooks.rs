//! The questions a shard puts to its governor. A hook that the plugin does not have answers what changes nothing.

use super::answers::{Connecting, Counts, Grant, Granted, Limits, Principal, Refusal, RefusalCode, Verdict};
use super::failure::Call;
use super::filters::{FilterId, Full, MAX_FILTER, MAX_FILTERS, MAX_TEXT};
use super::governor::{Governor, OnFailure};
use super::load::Hooks;
use super::shadow::{Message, Question, Subscribing};
use super::suspects::Blame;
use bytesize::ByteSize;
use std::time::Instant;
use switchyard_protocol::room::MAX_NAME_BYTES;

impl Governor {
    /// Whether a connection may be, once its key was found good; the limits hold for the connection.
    pub fn connect(&mut self, from: &Connecting) -> Result<Limits, Refusal> {
        if !self.hooks().connect {
            return Ok(Limits::default());
        }
        let who = Blame::Caller(&from.principal.id);
        let answer = match self.ask(Call::Connect, who, |instance| instance.connect(from)) {
            Ok(answer) => answer,
            Err(refusal) => self.unless_allowed(refusal, Limits::default()),
        };
        self.show(|_| Question::Connect(from.clone(), answer.clone()));
        answer
    }

    pub(super) fn show(&self, question: impl FnOnce(&Self) -> Question) {
        if let Some(mirror) = &self.mirror {
            mirror.show(question(self));
        }
    }

    /// Whether a room of that name may be, for `who` asks; `Some` is the name to use instead, which the host must check like
    /// any other.
    pub fn validate(&mut self, who: &str, room: &str) -> Result<Option<String>, Refusal> {
        if !self.hooks().room {
            return Ok(None);
        }
        if let Some(canonical) = self.rooms.get(room, Instant::now()) {
            return Ok(canonical);
        }
        let answer = match self.ask(Call::Room, Blame::Caller(who), |instance| instance.room(room)) {
            Ok(answer) => answer.and_then(|verdict| {
                let canonical = verdict.canonical.filter(|canonical| canonical != room);
                if let Some(length) = canonical.as_ref().map(String::len).filter(|length| *length > MAX_NAME_BYTES)
                {
                    let message = format!(
                        "plugin '{}' makes a name of {length} bytes of it, at most {MAX_NAME_BYTES} are allowed",
                        self.name()
                    );
                    return Err(Refusal::new(RefusalCode::Invalid, message));
                }
                self.rooms.put(room, canonical.clone(), verdict.cache, Instant::now());
                Ok(canonical)
            }),
            Err(refusal) => self.unless_allowed(refusal, None),
        };
        self.show(|_| Question::Room(who.to_owned(), room.to_owned(), answer.clone()));
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

    /// What `who` would be held to as a member of `room`: that holds for publishers that are none, too. Whom the plugin would
    /// not let in it does not limit.
    pub fn limits(&mut self, who: &Principal, room: &str, counts: Counts) -> Result<Limits, Refusal> {
        if !self.hooks().subscribe {
            return Ok(Limits::default());
        }
        let blame = Blame::Caller(&who.id);
        match self.ask(Call::Subscribe, blame, |instance| instance.subscribe(who, room, None, counts)) {
            Ok(answer) => Ok(answer.map_or(Limits::default(), |granted| granted.limits)),
            Err(refusal) => self.unless_allowed(refusal, Limits::default()),
        }
    }

    fn grant(
        &mut self,
        who: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<Grant, Refusal> {
        if let Some(filter) = filter
            && filter.len() > MAX_FILTER
        {
            return Err(too_large("a filter has", filter.len()));
        }
        let hooks = self.hooks();
        let granted = if hooks.subscribe {
            let blame = Blame::Caller(&who.id);
            match self.ask(Call::Subscribe, blame, |instance| instance.subscribe(who, room, filter, counts)) {
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
        if canonical.len() > MAX_FILTER {
            return Err(too_large("in the plugin's canonical form the filter has", canonical.len()));
        }
        let filter = self.intern(&canonical, &who.id)?;
        Ok(Grant { filter, limits: granted.limits })
    }

    /// What becomes of a message that a principal with id `who` publishes; `event` is empty for none.
    pub fn check(&mut self, who: &str, room: &str, event: &str, data: &[u8]) -> Result<Verdict, Refusal> {
        if !self.hooks().publish {
            return Ok(Verdict::Pass);
        }
        let answer = match self.ask(Call::Publish, Blame::Caller(who), |i| i.publish(who, room, event, data))
        {
            Ok(answer) => answer,
            Err(refusal) => self.unless_allowed(refusal, Verdict::Pass),
        };
        self.show(|_| Question::Publish(Message::of(room, event, data), who.to_owned(), answer.clone()));
        answer
    }

    /// A filter's number, with one more reference of `who`; compiled if it is new or had to be closed.
    pub(super) fn intern(&mut self, canonical: &str, who: &str) -> Result<Option<FilterId>, Refusal> {
        let known = self.filters.find(canonical);
        let holder = self.filters.holder(who);
        if let Some(id) = known.filter(|id| !self.filters.is_closed(*id)) {
            self.filters.retain(id, &holder);
            return Ok(Some(id));
        }
        let id = match known {
            Some(id) => id,
            None => self.filters.reserve(canonical, who).map_err(|full| self.full(full, who))?,
        };
        let answer = self.ask(Call::Compile, Blame::Caller(who), |i| i.compile(id.0, canonical));
        let refusal = match answer {
            Ok(Ok(plan)) => {
                match known {
                    Some(id) => {
                        self.filters.set_plan(id, plan);
                        self.filters.retain(id, &holder);
                    }
                    None => self.filters.insert(id, canonical, plan, &holder),
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

    fn full(&self, full: Full, who: &str) -> Refusal {
        let (plugin, most) = (self.name(), ByteSize(MAX_TEXT as u64));
        let message = match full {
            Full::Plugin => {
                format!(
                    "plugin '{plugin}' holds too many filters already: {MAX_FILTERS} and {most} are its most"
                )
            }
            Full::Share(held) => format!(
                "principal '{who}' has {} filters ({}) in plugin '{plugin}', and what is left of {MAX_FILTERS} ({most}) \
                 is for others: a principal may have as much as is free",
                held.filters,
                ByteSize(held.text as u64)
            ),
        };
        Refusal::new(RefusalCode::Limit, message)
    }

    pub(super) fn hooks(&self) -> Hooks {
        self.plugin().info().hooks
    }

    pub(super) fn unless_allowed<T>(&self, refusal: Refusal, default: T) -> Result<T, Refusal> {
        match self.on_failure {
            OnFailure::Deny => Err(refusal),
            OnFailure::Allow => Ok(default),
        }
    }
}

fn too_large(what: &str, bytes: usize) -> Refusal {
    Refusal::new(RefusalCode::Invalid, format!("{what} {bytes} bytes, at most {MAX_FILTER} are allowed"))
}
