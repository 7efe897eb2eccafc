//! Replaying recorded calls on a version of a plugin, one after the other, with the clock of the recording.

use super::filter_ledger::MAX_FILTERS;
use super::filters::FilterId;
use super::governor::{Governor, OnFailure};
use super::hook_types::{PublishRequest, Rejection, RejectionCode};
use super::load::Plugin;
use super::recorded_call::{
    DeliverQuestion, Question, RecordedCall, RecordedMessage, connect_answer, deliver_answer, publish_answer,
    room_answer, subscribe_answer,
};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Asks a version of a plugin what another one was asked.
pub struct Replayer {
    governor: Governor,
    /// The filters of deliveries; `None` for one that the plugin rejects. Their members are not recorded, so each
    /// is held in its own name, which divides the plugin's quota evenly.
    filters: HashMap<String, Option<FilterId>>,
}

impl Replayer {
    /// For a plugin that is used for nothing else, because this drives its clock.
    pub fn new(plugin: Arc<Plugin>) -> Self {
        Self { governor: Governor::new(plugin, OnFailure::Deny), filters: HashMap::new() }
    }

    /// What the plugin answers, in the form of [`RecordedCall::answer`]. `None` if the call cannot be replayed,
    /// because its data was not recorded.
    pub fn ask(&mut self, call: &RecordedCall) -> Option<Value> {
        self.governor.plugin().drive_clock(call.time);
        let governor = &mut self.governor;
        // Each recorded call was a call of the plugin, so none is answered from the cache.
        governor.room_names.clear();
        let answer = match &call.ask {
            Question::Connect(request) => connect_answer(governor.connect(request)),
            Question::Room(question) => room_answer(governor.validate(&question.principal, &question.room)),
            Question::Subscribe(question) => {
                let filter = question.filter.as_ref().map(|filter| filter.get());
                let granted =
                    governor.authorize(&question.principal, &question.room, filter, question.counts);
                subscribe_answer(granted.map(|grant| {
                    let canonical = grant.filter.map(|id| governor.filters.canonical(id).to_owned());
                    grant.filter.into_iter().for_each(|id| governor.release(id, &question.principal.id));
                    (canonical, grant.limits)
                }))
            }
            Question::Publish(question) => {
                let RecordedMessage { room, event, data, .. } = &question.message;
                let request = PublishRequest {
                    principal: &question.principal,
                    room,
                    event,
                    data: data.as_ref()?.get().as_bytes(),
                    via: question.via,
                    idempotency_key: question.idempotency_key.as_deref(),
                };
                publish_answer(governor.check(&request), true)
            }
            Question::Deliver(question) => {
                let data = question.message.data.as_ref()?.get().as_bytes();
                deliver_answer(self.matches(question, data))
            }
        };
        if answer["reject"] == serde_json::json!(RejectionCode::Failed) {
            // A plugin that failed often is not asked any more. Here, each call stands for itself.
            self.governor = Governor::new(self.governor.plugin().clone(), OnFailure::Deny);
            self.filters.clear();
        }
        Some(answer)
    }

    /// A filter that the plugin rejects matches nothing.
    fn matches(&mut self, question: &DeliverQuestion, data: &[u8]) -> Result<Vec<bool>, Rejection> {
        if self.filters.len() + question.filters.len() > MAX_FILTERS {
            for (filter, id) in self.filters.drain() {
                id.into_iter().for_each(|id| self.governor.release(id, &filter));
            }
        }
        for filter in &question.filters {
            if !self.filters.contains_key(filter) {
                let id = match self.governor.intern(filter, filter) {
                    Err(rejection) if rejection.code == RejectionCode::Failed => return Err(rejection),
                    id => id.ok().flatten(),
                };
                self.filters.insert(filter.clone(), id);
            }
        }
        let ids: Vec<_> = question.filters.iter().map(|filter| self.filters[filter]).collect();
        let known: Vec<_> = ids.iter().flatten().copied().collect();
        let (message, mut passed) = (&question.message, vec![]);
        self.governor.matches(&message.room, &message.event, data, &known, &mut passed)?;
        let mut results = (0..).map(|n| passed[n / 64] >> (n % 64) & 1 == 1);
        Ok(ids.iter().map(|id| id.is_some() && results.next() == Some(true)).collect())
    }
}
