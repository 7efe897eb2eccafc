//! Checks whether a message may be published: first the publisher's quota, then whether it is stored already, then the
//! rate of the room, and last the plugin. Does not store the message; the publisher does.

use super::*;
use crate::hub::{
    publish_pipeline::{CheckOutcome, CheckedMessage, UncheckedMessage},
    quotas::too_many_rooms,
    refusals::wire_refusal,
    room_policies::Offered,
};
use switchyard_plugin::{PluginFunction, PublishRequest, Verdict};
use switchyard_process::lock::LockExt;
use switchyard_protocol::ErrorCode;
use switchyard_store::grant::Verb;

impl Shard {
    /// Decides whether a message may be published, to which room and with which data. The limits that the
    /// plugin gives to members apply to all publishers.
    pub(super) fn check(
        &mut self,
        message: UncheckedMessage,
        canonical: Option<CanonicalRoom>,
    ) -> Result<CheckedMessage, Refusal> {
        let UncheckedMessage { room, key, via, event, data, idempotency_key, mut charge } = message;
        let room = canonical.map_or(room, |canonical| canonical.name);
        key.require_in(Verb::Publish, &room)?;
        let principal = &key.seen_by_plugins;
        let governor = match &mut self.policy {
            Policy::Governed(governor) => governor,
            Policy::Closed { plugin, reason } => return Err(reason.refusal(plugin, &room)),
            Policy::Ungoverned(_) => {
                return Ok(CheckedMessage { room, event, outcome: CheckOutcome::Accepted(data), charge });
            }
        };
        if let (Some(governed), true) = (&self.governed, governor.plugin().info().hooks.subscribe) {
            let (bytes, now) = (data.len(), Instant::now());
            let mut taken = governed.quotas.locked().take(&principal.id, &room, bytes, now);
            if taken.is_none() {
                let in_room = match self.rooms.get(&room) {
                    Some(RoomEntry::Open(room, _)) => room.len() as u32,
                    Some(RoomEntry::Opening(..)) | None => 0,
                };
                // The publisher is treated as a member that is in no other room.
                let counts = Counts { in_room, ..Counts::default() };
                let limits = governor.limits(principal, &room, counts);
                let limits = limits.map_err(|refusal| wire_refusal(PluginFunction::Subscribe, refusal))?;
                let mut quotas = governed.quotas.locked();
                quotas.set_publisher_limits(&principal.id, &room, &limits, now);
                taken = quotas.take(&principal.id, &room, bytes, now);
            }
            taken.unwrap_or_else(|| Err(too_many_rooms(&room)))?;
        }
        let idempotency_key = idempotency_key.as_deref();
        let repeated =
            idempotency_key.and_then(|key| self.store.broker.find_stored(&room, &principal.id, key));
        if let Some(position) = repeated {
            return Ok(CheckedMessage { room, event, outcome: CheckOutcome::Repeated(position), charge });
        }
        let offered = Offered { room: &room, principal: &principal.id, bytes: data.len() };
        self.policies.check_rate(&offered, &self.metrics, Instant::now())?;
        let request = PublishRequest {
            principal,
            room: &room,
            event: event.as_deref().unwrap_or_default(),
            data: data.as_bytes(),
            via,
            idempotency_key,
        };
        let verdict = governor.check(&request);
        if self.observers.are_there() {
            let refusal = verdict.as_ref().err().map(|rejection| &*rejection.message);
            self.observers.publishing(&request, refusal);
        }
        let outcome = match verdict.map_err(|refusal| wire_refusal(PluginFunction::Publish, refusal))? {
            Verdict::Pass => CheckOutcome::Accepted(data),
            Verdict::Discard => CheckOutcome::Discarded,
            Verdict::Replace(data) => {
                let data = valid_replacement(data, governor.name(), &room, self.message_bytes)?;
                charge.grow(data.len());
                CheckOutcome::Accepted(data)
            }
        };
        Ok(CheckedMessage { room, event, outcome, charge })
    }
}

fn valid_replacement(
    data: Vec<u8>,
    plugin: &str,
    room: &RoomName,
    max_bytes: usize,
) -> Result<String, Refusal> {
    match String::from_utf8(data) {
        Ok(data) if data.len() <= max_bytes => Ok(data),
        Ok(data) => {
            let message = format!(
                "plugin '{plugin}' replaced the data with {} bytes; at most {max_bytes} are allowed here",
                data.len()
            );
            Err(Refusal::new(ErrorCode::MessageTooLarge, message))
        }
        Err(_) => {
            let message = format!(
                "plugin '{plugin}' replaced a message of room '{}' with data that is not valid UTF-8",
                &**room
            );
            Err(Refusal::new(ErrorCode::PluginFailed, message))
        }
    }
}
