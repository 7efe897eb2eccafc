//! `POST /v1/publish` and `/v1/broadcast`.

use super::{
    api::{Api, Caller, Failure, json, raw},
    body::Unread,
};
use crate::{
    hub::{Proposal, PublishPipeline, Published, Publisher},
    key::Key,
    session::may_publish,
};
use axum::{extract::State, response::Response};
use serde_json::value::RawValue;
use std::sync::Arc;
use switchyard_process::file::without_bom;
use switchyard_protocol::{
    ErrorCode, Refusal,
    reply::ErrorBody,
    request::{Publish, parse_publish, parse_publish_to},
    room::BROADCAST,
};
use switchyard_store::key::Scope;
use tokio::task::coop::consume_budget;

/// Messages of one list.
const MOST: usize = 1000;
/// Bytes around the data of one: room, event and key, all of them escaped.
const FIELDS: usize = 4096;

/// Bytes of a list, or of whatever else a body holds.
pub(super) fn largest(api: &Api) -> usize {
    MOST * (api.services.config.message + FIELDS)
}

/// One message, or a list of which each succeeds or fails alone.
pub(super) async fn publish(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: Unread,
) -> Result<Response, Failure> {
    // A key may have the scope for `*` alone: which one is needed is seen message by message.
    let publish = caller.with(Scope::Publish, "publish");
    let key = publish.or_else(|refusal| caller.with(Scope::Broadcast, "publish").map_err(|_| refusal))?;
    let body = body.read(&api, &caller, largest(&api)).await?;
    let body = text(&body)?;
    if !body.trim_start().starts_with('[') {
        let message: &RawValue = serde_json::from_str(body).map_err(not_json)?;
        return Ok(raw(json(one(&api, &caller, key, parse_publish(message)?).await?)));
    }
    let list: Vec<&RawValue> = serde_json::from_str(body).map_err(not_json)?;
    if list.len() > MOST {
        let message = format!("the list has {} messages, at most {MOST} are allowed", list.len());
        return Err(Refusal::invalid(message).into());
    }
    let (hub, mut publishes) = (&*api.services.hub, PublishPipeline::default());
    let (mut answers, mut away) = (vec![], None);
    let mut note = |((), published): ((), Published)| {
        let refusal = published.as_ref().err().filter(|refusal| refusal.code == ErrorCode::StoreUnavailable);
        answers.push(answer(&published));
        refusal.cloned()
    };
    for message in list {
        // A list of many is to hold up nobody else.
        consume_budget().await;
        let bytes = message.get().len();
        // What comes behind a message that the store did not take would only wait as long.
        let parsed = away.clone().map_or_else(|| parse_publish(message), Err);
        match parsed.and_then(|message| allowed(&api, key, message, bytes)) {
            Ok(proposal) => publishes.begin(hub, publisher(&api, &caller, key), proposal, ()),
            Err(refusal) => publishes.refuse(&caller.share, refusal, bytes, ()),
        }
        while publishes.is_full(&caller.share) {
            away = away.or(publishes.next(hub).await.and_then(&mut note));
        }
    }
    while let Some(published) = publishes.next(hub).await {
        note(published);
    }
    Ok(raw(format!("[{}]", answers.join(","))))
}

fn answer(published: &Published) -> String {
    match published {
        Ok(published) => json(published),
        Err(refusal) => json(ErrorBody { error: refusal }),
    }
}

/// The message without its room.
pub(super) async fn broadcast(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: Unread,
) -> Result<Response, Failure> {
    let key = caller.with(Scope::Broadcast, "broadcast")?;
    let body = body.read(&api, &caller, api.services.config.message + FIELDS).await?;
    let body = text(&body)?;
    let message: &RawValue = serde_json::from_str(body).map_err(not_json)?;
    Ok(raw(json(one(&api, &caller, key, parse_publish_to(BROADCAST, message)?).await?)))
}

/// A message that the key may publish. `bytes` is the length of its request.
fn allowed<'a>(api: &Api, key: &Key, message: Publish<'a>, bytes: usize) -> Result<Proposal<'a>, Refusal> {
    let room = may_publish(&message, key, api.services.config.message)?;
    Ok(Proposal { room, message, bytes })
}

async fn one(api: &Api, caller: &Caller, key: &Key, message: Publish<'_>) -> Published {
    let bytes = message.data.get().len();
    let proposal = allowed(api, key, message, bytes)?;
    api.services.hub.publish(publisher(api, caller, key), proposal).await
}

fn publisher<'a>(api: &Api, caller: &'a Caller, key: &'a Key) -> Publisher<'a> {
    Publisher { keys: api.services.keys.load_full(), share: &caller.share, tier: &key.tier }
}

fn text(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(without_bom(body)).map_err(|_| Refusal::invalid("the body is not UTF-8"))
}

fn not_json(error: serde_json::Error) -> Refusal {
    Refusal::invalid(format!("the body is not the JSON that is wanted: {error}"))
}
