//! Calls that were decided without a plugin, as a candidate sees them that governs nothing yet. It is compared only in
//! what it would have refused or changed: whoever decided has other filters and limits.

use super::governor::Governor;
use super::hook_types::{ConnectRequest, Counts, Principal, PublishRequest, Rejection, Verdict};
use super::mirror::{Mirror, ShadowCall};
use super::mirrored_call::{PublishCall, excerpt};
use serde_json::{Value, json};

/// A call that was decided without the candidate.
pub(super) struct ObservedCall {
    question: Question,
    /// Why it was refused, if it was.
    pub refusal: Option<String>,
}

enum Question {
    Connect(ConnectRequest),
    Subscribe { principal: Principal, room: String, filter: Option<String>, counts: Counts },
    Publish(Box<PublishCall>),
}

/// How a candidate answers a call that it would not refuse, if it changes nothing.
pub(super) const ALLOWED: &str = "allowed";

impl Mirror {
    /// Shows the candidate a client that wants to connect. `refusal` is the reason if it may not.
    pub fn observe_connect(&self, request: &ConnectRequest, refusal: Option<&str>) {
        self.observe("connect", || Question::Connect(request.clone()), refusal);
    }

    /// Shows the candidate a request to join a room. `refusal` is the reason if it was refused.
    pub fn observe_subscribe(
        &self,
        principal: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
        refusal: Option<&str>,
    ) {
        let question = || {
            let (principal, room, filter) = (principal.clone(), room.to_owned(), filter.map(str::to_owned));
            Question::Subscribe { principal, room, filter, counts }
        };
        self.observe("subscribe", question, refusal);
    }

    /// Shows the candidate a message. `refusal` is the reason if it is not published.
    pub fn observe_publish(&self, request: &PublishRequest<'_>, refusal: Option<&str>) {
        let question = || Question::Publish(Box::new(PublishCall::new(request, Ok(Verdict::Pass))));
        self.observe("publish", question, refusal);
    }

    fn observe(&self, hook: &'static str, question: impl FnOnce() -> Question, refusal: Option<&str>) {
        self.send(hook, || {
            let (question, refusal) = (question(), refusal.map(str::to_owned));
            ShadowCall::Observed(Box::new(ObservedCall { question, refusal }))
        });
    }
}

impl ObservedCall {
    pub(super) fn hook(&self) -> &'static str {
        match self.question {
            Question::Connect(_) => "connect",
            Question::Subscribe { .. } => "subscribe",
            Question::Publish(_) => "publish",
        }
    }

    /// About how many bytes it has.
    pub(super) fn size(&self) -> usize {
        let content = match &self.question {
            Question::Connect(request) => request.size(),
            Question::Subscribe { principal, room, filter, .. } => {
                principal.id.len() + room.len() + filter.as_ref().map_or(0, String::len)
            }
            Question::Publish(call) => call.size(),
        };
        size_of::<Self>() + content + self.refusal.as_ref().map_or(0, String::len)
    }

    /// What is asked, for people.
    pub(super) fn to_json(&self) -> Value {
        match &self.question {
            Question::Connect(request) => {
                json!({ "principal": *request.principal.id, "remote": request.remote })
            }
            Question::Subscribe { principal, room, filter, .. } => {
                json!({ "principal": *principal.id, "room": room, "filter": filter })
            }
            Question::Publish(call) => call.message.to_json(),
        }
    }

    /// Asks the candidate.
    pub(super) fn answer(&self, governor: &mut Governor) -> Result<Value, Rejection> {
        match &self.question {
            Question::Connect(request) => governor.connect(request).map(|_| json!(ALLOWED)),
            Question::Subscribe { principal, room, filter, counts } => {
                let canonical = governor.validate(&principal.id, room)?;
                let room = canonical.as_deref().unwrap_or(room);
                let grant = governor.authorize(principal, room, filter.as_deref(), *counts)?;
                grant.filter.into_iter().for_each(|id| governor.release(id, &principal.id));
                Ok(json!(ALLOWED))
            }
            Question::Publish(call) => {
                let verdict = governor.check(&call.request())?;
                Ok(match verdict {
                    Verdict::Pass => json!(ALLOWED),
                    Verdict::Discard => json!("discard"),
                    Verdict::Replace(data) => json!({ "replace": excerpt(&data) }),
                })
            }
        }
    }
}
