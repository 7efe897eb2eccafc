//! The calls that a shard makes to a governor, one for each hook. A hook that the plugin does not have allows
//! everything.

use super::blame::Blame;
use super::failure::PluginFunction;
use super::filter_ledger::{MAX_FILTERS, MAX_TOTAL_BYTES, QuotaExceeded};
use super::filters::{FilterId, MAX_FILTER_BYTES};
use super::governor::{Governor, OnFailure};
use super::hook_types::{
    ConnectRequest, Counts, Limits, Principal, PublishRequest, Rejection, RejectionCode, SubscriptionGrant,
    UncompiledGrant, Verdict,
};
use super::load::Hooks;
use super::mirror::ShadowCall;
use super::mirrored_call::{MirroredCall, PublishCall, SubscribeCall};
use bytesize::ByteSize;
use std::time::Instant;
use switchyard_protocol::room::MAX_NAME_BYTES;

impl Governor {
    /// The hook `connect`: whether a connection with a valid key is allowed. The limits apply to the
    /// connection.
    ///
    /// # Errors
    ///
    /// Fails if the plugin rejects the connection, or if it cannot answer and failures are denied.
    pub fn connect(&mut self, request: &ConnectRequest) -> Result<Limits, Rejection> {
        if !self.hooks().connect {
            return Ok(Limits::default());
        }
        let names = self.plugin().headers();
        let value = |name: &String| request.headers.iter().find(|(header, _)| header == name).cloned();
        let request =
            &ConnectRequest { headers: names.iter().filter_map(value).collect(), ..request.clone() };
        let blame = Blame::Principal(&request.principal.id);
        let answer = match self.call(PluginFunction::Connect, blame, |instance| instance.connect(request)) {
            Ok(answer) => answer,
            Err(rejection) => self.unless_allowed(rejection, Limits::default()),
        };
        self.mirror("connect", |_| MirroredCall::Connect(request.clone(), answer.clone()));
        answer
    }

    /// Copies a call to the candidate and to the recording, if there are any.
    pub(super) fn mirror(&self, hook: &'static str, call: impl Fn(&Self) -> MirroredCall) {
        if let Some(mirror) = &self.mirror {
            mirror.send(hook, || ShadowCall::Mirrored(call(self)));
        }
        self.plugin().recorder().record(|| call(self));
    }

    /// The hook `room`: whether a room name is valid, for a request of the principal `principal_id`. `Some`
    /// is the canonical name to use instead; the host must check it like any other name. Answers are cached
    /// for as long as the plugin allows.
    ///
    /// # Errors
    ///
    /// Fails if the plugin rejects the name, or if it cannot answer and failures are denied.
    pub fn validate(&mut self, principal_id: &str, room: &str) -> Result<Option<String>, Rejection> {
        if !self.hooks().room {
            return Ok(None);
        }
        if let Some(canonical) = self.room_names.get(room, Instant::now()) {
            return Ok(canonical);
        }
        let blame = Blame::Principal(principal_id);
        let answer = match self.call(PluginFunction::Room, blame, |instance| instance.room(principal_id, room)) {
            Ok(answer) => answer.and_then(|verdict| {
                let canonical = verdict.canonical.filter(|canonical| canonical != room);
                if let Some(length) = canonical.as_ref().map(String::len).filter(|length| *length > MAX_NAME_BYTES)
                {
                    let message = format!(
                        "the canonical name from plugin '{}' has {length} bytes, at most {MAX_NAME_BYTES} are allowed",
                        self.name()
                    );
                    return Err(Rejection::new(RejectionCode::Invalid, message));
                }
                self.room_names.put(room, canonical.clone(), verdict.cache, Instant::now());
                Ok(canonical)
            }),
            Err(rejection) => self.unless_allowed(rejection, None),
        };
        self.mirror("room", |_| MirroredCall::Room(principal_id.to_owned(), room.to_owned(), answer.clone()));
        answer
    }

    /// The hook `subscribe`: whether `principal` may join `room`, and which messages reach it. `filter` is
    /// JSON as the client sent it. The caller owns a reference to the filter of the grant; see
    /// [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// Fails if the plugin rejects the subscription or its filter, if there are too many filters, or if the
    /// plugin cannot answer and failures are denied.
    pub fn authorize(
        &mut self,
        principal: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<SubscriptionGrant, Rejection> {
        let answer = self.grant(principal, room, filter, counts);
        let hooks = self.hooks();
        if hooks.subscribe || hooks.deliver {
            self.mirror("subscribe", |this| {
                let canonical = |id| this.filters.canonical(id).to_owned();
                let answer = answer.clone().map(|grant| (grant.filter.map(canonical), grant.limits));
                let (principal, room, filter) =
                    (principal.clone(), room.to_owned(), filter.map(str::to_owned));
                MirroredCall::Subscribe(Box::new(SubscribeCall { principal, room, filter, counts, answer }))
            });
        }
        answer
    }

    /// The limits that `principal` would have as a member of `room`. They also apply to principals that
    /// publish without joining. A principal that the plugin would not let in has none.
    ///
    /// # Errors
    ///
    /// Fails if the plugin cannot answer and failures are denied.
    pub fn limits(&mut self, principal: &Principal, room: &str, counts: Counts) -> Result<Limits, Rejection> {
        if !self.hooks().subscribe {
            return Ok(Limits::default());
        }
        let answer = self.call(PluginFunction::Subscribe, Blame::Principal(&principal.id), |instance| {
            instance.subscribe(principal, room, None, counts)
        });
        match answer {
            Ok(answer) => Ok(answer.map_or(Limits::default(), |grant| grant.limits)),
            Err(rejection) => self.unless_allowed(rejection, Limits::default()),
        }
    }

    fn grant(
        &mut self,
        principal: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<SubscriptionGrant, Rejection> {
        if let Some(filter) = filter
            && filter.len() > MAX_FILTER_BYTES
        {
            return Err(filter_too_large("a filter has", filter.len()));
        }
        let hooks = self.hooks();
        let grant = if hooks.subscribe {
            let answer = self.call(PluginFunction::Subscribe, Blame::Principal(&principal.id), |instance| {
                instance.subscribe(principal, room, filter, counts)
            });
            match answer {
                Ok(answer) => answer?,
                Err(rejection) => return self.unless_allowed(rejection, SubscriptionGrant::default()),
            }
        } else {
            UncompiledGrant { filter: filter.map(str::to_owned), limits: Limits::default() }
        };
        let Some(canonical) = grant.filter else {
            return Ok(SubscriptionGrant { filter: None, limits: grant.limits });
        };
        if !hooks.deliver {
            let message = format!("plugin '{}' does not support filters: subscribe without one", self.name());
            return Err(Rejection::new(RejectionCode::Invalid, message));
        }
        if canonical.len() > MAX_FILTER_BYTES {
            return Err(filter_too_large("in the plugin's canonical form, the filter has", canonical.len()));
        }
        let filter = self.intern(&canonical, &principal.id)?;
        Ok(SubscriptionGrant { filter, limits: grant.limits })
    }

    /// The hook `publish`: what happens to a message.
    ///
    /// # Errors
    ///
    /// Fails if the plugin rejects the message, or if it cannot answer and failures are denied.
    pub fn check(&mut self, request: &PublishRequest<'_>) -> Result<Verdict, Rejection> {
        if !self.hooks().publish {
            return Ok(Verdict::Pass);
        }
        let blame = Blame::Principal(&request.principal.id);
        let answer = match self.call(PluginFunction::Publish, blame, |instance| instance.publish(request)) {
            Ok(answer) => answer,
            Err(rejection) => self.unless_allowed(rejection, Verdict::Pass),
        };
        self.mirror("publish", |_| {
            MirroredCall::Publish(Box::new(PublishCall::new(request, answer.clone())))
        });
        answer
    }

    /// The number of a filter, with one more reference for the principal. The filter is compiled if it is new
    /// or was closed.
    pub(super) fn intern(
        &mut self,
        canonical: &str,
        principal_id: &str,
    ) -> Result<Option<FilterId>, Rejection> {
        let known = self.filters.find(canonical);
        let holder = self.filters.shared_name(principal_id);
        if let Some(id) = known.filter(|id| !self.filters.is_closed(*id)) {
            self.filters.retain(id, &holder);
            return Ok(Some(id));
        }
        let id = match known {
            Some(id) => id,
            None => self
                .filters
                .reserve(canonical, &holder)
                .map_err(|exceeded| self.quota_exceeded(exceeded, principal_id))?,
        };
        let answer = self.call(PluginFunction::Compile, Blame::Principal(principal_id), |instance| {
            instance.compile(principal_id, id.0, canonical)
        });
        let rejection = match answer {
            Ok(Ok(plan)) => {
                match known {
                    Some(id) => {
                        self.filters.set_plan(id, plan);
                        self.filters.retain(id, &holder);
                    }
                    None => self.filters.insert(id, canonical, plan, &holder),
                }
                self.report_filters();
                return Ok(Some(id));
            }
            Ok(Err(reason)) => Err(Rejection::new(RejectionCode::Invalid, reason)),
            Err(rejection) => self.unless_allowed(rejection, None),
        };
        if known.is_none() {
            self.filters.cancel_reservation(id, canonical, principal_id);
        }
        rejection
    }

    fn quota_exceeded(&self, exceeded: QuotaExceeded, principal_id: &str) -> Rejection {
        let (plugin, max_bytes) = (self.name(), ByteSize(MAX_TOTAL_BYTES as u64));
        let message = match exceeded {
            QuotaExceeded::Plugin => {
                format!(
                    "plugin '{plugin}' has too many filters; at most {MAX_FILTERS} and {max_bytes} are allowed"
                )
            }
            QuotaExceeded::Principal(usage) => format!(
                "principal '{principal_id}' has {} filters ({}) in plugin '{plugin}', and a principal may have only as many as it \
                 leaves free of {MAX_FILTERS} ({max_bytes}): unsubscribe, or use equal filters",
                usage.filters,
                ByteSize(usage.bytes as u64)
            ),
        };
        Rejection::new(RejectionCode::Limit, message)
    }

    pub(super) fn hooks(&self) -> Hooks {
        self.plugin().info().hooks
    }

    /// The rejection, or `default` if failures are allowed.
    pub(super) fn unless_allowed<T>(&self, rejection: Rejection, default: T) -> Result<T, Rejection> {
        match self.on_failure {
            OnFailure::Deny => Err(rejection),
            OnFailure::Allow => Ok(default),
        }
    }
}

fn filter_too_large(subject: &str, bytes: usize) -> Rejection {
    let message = format!("{subject} {bytes} bytes, at most {MAX_FILTER_BYTES} are allowed");
    Rejection::new(RejectionCode::Invalid, message)
}
