//! The calls `POST /v1/publish` and `POST /v1/broadcast`. Does not know how a message is stored.

use super::{
    api::{Api, ApiError, Caller, json_response, to_json},
    body::{ReceivedBody, UnreadBody},
    detached::to_the_end,
};
use crate::{
    audit::{AuditAction, AuditEvent},
    hub::{Proposal, PublishOutcome, PublishPipeline, Publisher},
    limits::TierRate,
    session::may_publish,
};
use axum::{extract::State, response::Response};
use serde_json::value::RawValue;
use std::{collections::BTreeSet, sync::Arc};
use switchyard_plugin::{Via, digest};
use switchyard_process::file::without_bom;
use switchyard_protocol::{
    ErrorCode, Refusal,
    reply::ErrorBody,
    request::{Publish, parse_publish, parse_publish_to},
    room::{BROADCAST, RoomName},
};
use switchyard_store::key::Scope;
use tokio::task::coop::consume_budget;

/// Maximum number of messages in a list.
const MAX_LIST_MESSAGES: usize = 1000;
/// Maximum size of everything in a message except its data, in bytes: room, event and key, with all
/// characters escaped.
const MAX_FIELDS_BYTES: usize = 4096;
/// How many different rooms an audit line names.
const MAX_AUDITED_ROOMS: usize = 10;

/// Maximum size of a body, in bytes: a list of the maximum number of messages. Also holds for plugins.
pub(super) fn max_body_bytes(api: &Api) -> usize {
    MAX_LIST_MESSAGES * (api.services.config.message + MAX_FIELDS_BYTES)
}

/// Publishes one message, or a list of messages, each of which succeeds or fails on its own.
pub(super) async fn publish(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: UnreadBody,
) -> Result<Response, ApiError> {
    // A key with the scope `broadcast` may publish to `*` only, which is checked for each message.
    caller.require_any(&[Scope::Publish, Scope::Broadcast], "publish")?;
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    match caller.has_scope(Scope::Admin) {
        true => to_the_end(publish_all(api, caller, body)).await,
        false => publish_all(api, caller, body).await,
    }
}

async fn publish_all(api: Arc<Api>, caller: Caller, body: ReceivedBody) -> Result<Response, ApiError> {
    let text = decode(&body)?;
    if !text.trim_start().starts_with('[') {
        let message: &RawValue = serde_json::from_str(text).map_err(not_json)?;
        let message = parse_publish(message)?;
        let rooms = PublishedRooms::one(&message.room);
        let published = publish_one(&api, &caller, message).await;
        record_publish(&api, &caller, &rooms, &body, |event| event.result(&published));
        return Ok(json_response(to_json(published?)));
    }
    let list: Vec<&RawValue> = serde_json::from_str(text).map_err(not_json)?;
    if list.len() > MAX_LIST_MESSAGES {
        let message =
            format!("the list has {} messages; at most {MAX_LIST_MESSAGES} are allowed", list.len());
        return Err(Refusal::invalid(message).into());
    }
    let (mut messages, mut data_bytes) = (Vec::with_capacity(list.len()), 0);
    for message in list {
        // A long list must not delay other tasks.
        consume_budget().await;
        let parsed = parse_publish(message);
        data_bytes += parsed.as_ref().map_or(0, |message| message.data.get().len());
        messages.push((parsed, message.get().len()));
    }
    charge(&api, &caller, messages.len(), data_bytes)?;
    let (hub, mut publishes) = (&*api.services.hub, PublishPipeline::default());
    let (mut answers, mut unavailable) = (vec![], None);
    let (mut rooms, mut failed) = (PublishedRooms::default(), 0);
    let mut record = |((), published): ((), PublishOutcome)| {
        let refusal = published.as_ref().err().filter(|refusal| refusal.code == ErrorCode::StoreUnavailable);
        answers.push(to_answer(&published));
        failed += usize::from(published.is_err());
        refusal.cloned()
    };
    for (message, bytes) in messages {
        consume_budget().await;
        // If the store is unavailable, the remaining messages would only wait for the same timeout.
        let parsed = unavailable.clone().map_or(message, Err);
        if let Ok(message) = &parsed {
            rooms.add(&message.room);
        }
        match parsed.and_then(|message| authorize(&api, &caller, message, bytes)) {
            Ok((publisher, proposal)) => publishes.begin(hub, publisher, proposal, ()),
            Err(refusal) => publishes.refuse(&caller.share, refusal, bytes, ()),
        }
        while publishes.is_full(&caller.share) {
            unavailable = unavailable.or(publishes.next(hub).await.and_then(&mut record));
        }
    }
    while let Some(published) = publishes.next(hub).await {
        record(published);
    }
    record_publish(&api, &caller, &rooms, &body, |event| {
        event.detail("messages", answers.len()).detail("failed", failed)
    });
    Ok(json_response(format!("[{}]", answers.join(","))))
}

fn to_answer(published: &PublishOutcome) -> String {
    match published {
        Ok(published) => to_json(published),
        Err(refusal) => to_json(ErrorBody { error: refusal }),
    }
}

/// Publishes a message to `*`. The message has no field `room`.
pub(super) async fn broadcast(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: UnreadBody,
) -> Result<Response, ApiError> {
    caller.require(Scope::Broadcast, "broadcast")?;
    let body = body.read(&api, &caller, api.services.config.message + MAX_FIELDS_BYTES).await?;
    match caller.has_scope(Scope::Admin) {
        true => to_the_end(broadcast_one(api, caller, body)).await,
        false => broadcast_one(api, caller, body).await,
    }
}

async fn broadcast_one(api: Arc<Api>, caller: Caller, body: ReceivedBody) -> Result<Response, ApiError> {
    let text = decode(&body)?;
    let message: &RawValue = serde_json::from_str(text).map_err(not_json)?;
    let published = publish_one(&api, &caller, parse_publish_to(BROADCAST, message)?).await;
    let rooms = PublishedRooms::one(BROADCAST);
    record_publish(&api, &caller, &rooms, &body, |event| event.result(&published));
    Ok(json_response(to_json(published?)))
}

/// A message that the caller's key may publish as it is now. `bytes` is the length of its request.
fn authorize<'a, 'm>(
    api: &Api,
    caller: &'a Caller,
    message: Publish<'m>,
    bytes: usize,
) -> Result<(Publisher<'a>, Proposal<'m>), Refusal> {
    let key = caller.current_key(api)?;
    let room = may_publish(&message, &key, api.services.config.message)?;
    // For each message of a list, because each of them may fill the memory.
    api.services.hub.check_tier_memory(&caller.budget, &key, &caller.share)?;
    let keys = api.services.keys.clone();
    Ok((Publisher { keys, share: &caller.share, key, via: Via::Http }, Proposal { room, message, bytes }))
}

/// Takes what messages cost from the budget of the caller's principal. A list is refused as a whole, because its
/// messages would be published in another order if only some of them had to be repeated.
fn charge(api: &Api, caller: &Caller, messages: usize, bytes: usize) -> Result<(), Refusal> {
    let key = caller.current_key(api)?;
    caller.budget.take(&key, [(TierRate::Publishes, messages), (TierRate::Bytes, bytes)])
}

async fn publish_one(api: &Api, caller: &Caller, message: Publish<'_>) -> PublishOutcome {
    let bytes = message.data.get().len();
    charge(api, caller, 1, bytes)?;
    let (publisher, proposal) = authorize(api, caller, message, bytes)?;
    api.services.hub.publish(publisher, proposal).await
}

/// The rooms of the messages of a call, as its audit line has them.
#[derive(Default)]
struct PublishedRooms(BTreeSet<String>);

impl PublishedRooms {
    fn one(room: &str) -> Self {
        Self([room.to_owned()].into())
    }

    fn add(&mut self, room: &str) {
        // Others could not be told apart in the line.
        let is_valid = RoomName::parse(room).is_ok();
        if is_valid && self.0.len() < MAX_AUDITED_ROOMS && !self.0.contains(room) {
            self.0.insert(room.to_owned());
        }
    }
}

/// Writes the audit line of a call that published, if the caller's key is one of an operator: what operators do is
/// audited, and what publishers do is their business.
fn record_publish(
    api: &Api,
    caller: &Caller,
    rooms: &PublishedRooms,
    body: &[u8],
    finish: impl FnOnce(AuditEvent) -> AuditEvent,
) {
    if !caller.has_scope(Scope::Admin) {
        return;
    }
    let rooms = rooms.0.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let event = AuditEvent::new(caller.actor(), AuditAction::MessagePublish, rooms).digest(digest(body));
    api.services.hub.audit.record(&finish(event));
}

fn decode(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(without_bom(body)).map_err(|_| Refusal::invalid("the body is not valid UTF-8"))
}

fn not_json(error: serde_json::Error) -> Refusal {
    Refusal::invalid(format!("the body is not valid JSON: {error}"))
}
