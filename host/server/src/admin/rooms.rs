//! The calls `GET /v1/rooms…`. Changes no room.

use super::{
    api::{Api, ApiError, ApiResult, Caller, PageQuery, json_response, next_cursor, not_found, parse_limit},
    query::{self, QueryParameters},
};
use crate::hub::{RoomPolicyView, charge_read, unavailable};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use switchyard_protocol::{
    Position, Refusal, reply,
    request::MAX_HISTORY_MESSAGES,
    room::{RoomKind, RoomName},
};
use switchyard_store::{History, PageLimit, Reader, Receipt, RoomSummary, grant::Verb, key::Scope};

/// Maximum size of the messages in one answer, in bytes, unless the first one alone is larger.
const MAX_HISTORY_BYTES: usize = 1 << 20;
/// Number of messages in an answer without `limit`.
const DEFAULT_HISTORY_MESSAGES: usize = 100;

#[derive(Serialize)]
pub(super) struct RoomView {
    #[serde(flatten)]
    summary: RoomSummary,
    /// The plugin that governs the room; `null` if none does.
    governor: Option<String>,
}

/// A room with what holds in it.
#[derive(Serialize)]
pub(super) struct RoomDetails {
    #[serde(flatten)]
    room: RoomView,
    policy: RoomPolicyView,
}

#[derive(Serialize)]
pub(super) struct RoomList {
    rooms: Vec<RoomView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn view(api: &Api, summary: RoomSummary) -> RoomView {
    let name = RoomName::parse(&summary.room).ok();
    let governor = name.and_then(|name| api.services.hub.governor(&name).map(|name| name.to_string()));
    RoomView { summary, governor }
}

pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller<PageQuery>) -> ApiResult<RoomList> {
    caller.require(Scope::Admin, "see rooms")?;
    let query = caller.query()?;
    let (after, limit) = (&query.after, query.limit()?);
    let rooms = api.services.hub.store.rooms.list(after, limit).await.map_err(unavailable)?;
    let next = next_cursor(&rooms, limit, |room| room.room.to_string());
    let rooms = rooms.into_iter().map(|room| view(&api, room)).collect();
    Ok(Json(RoomList { rooms, next }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    room: Result<Path<String>, PathRejection>,
) -> ApiResult<RoomDetails> {
    caller.require(Scope::Admin, "see rooms")?;
    let Path(room) = room?;
    let room = RoomName::parse(&room)?;
    let summary = api.services.hub.store.rooms.summary(&room).await.map_err(unavailable)?;
    let summary = summary.ok_or_else(|| unknown_room(&room))?;
    let policy = api.services.hub.policies.view(&room);
    Ok(Json(RoomDetails { room: view(&api, summary), policy }))
}

/// `?epoch=E&offset=N&limit=L`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    epoch: Option<Arc<str>>,
    offset: Option<String>,
    limit: Option<String>,
}

impl QueryParameters for HistoryQuery {}

pub(super) async fn history(
    State(api): State<Arc<Api>>,
    caller: Caller<HistoryQuery>,
    room: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let key = caller.require(Scope::Admin, "see rooms")?;
    let Path(room) = room?;
    let room = RoomName::parse(&room)?;
    let HistoryQuery { epoch, offset, limit } = caller.query()?;
    let limit = parse_limit(limit.as_deref(), DEFAULT_HISTORY_MESSAGES, MAX_HISTORY_MESSAGES)?;
    let since = match (epoch, offset.as_deref().map(query::parse_offset).transpose()?) {
        (Some(epoch), Some(offset)) => Some(Position { epoch: epoch.clone(), offset }),
        (None, None) => None,
        _ => return Err(Refusal::invalid("epoch and offset must be given together").into()),
    };
    if api.services.hub.store.rooms.summary(&room).await.map_err(unavailable)?.is_none() {
        return Err(unknown_room(&room).into());
    }
    caller.budget.check_reads(key)?;
    let limit = PageLimit { messages: limit, bytes: MAX_HISTORY_BYTES };
    let history = api.services.hub.read(&key.principal, &room, since.as_ref(), limit, Reader::Other).await;
    let history = history.map_err(unavailable)?;
    charge_read(&caller.budget, key, &history);
    let History { newest, messages, more, whole, .. } = history;
    let (room, epoch, recovered) = (room.shared(), newest.epoch, since.map(|_| whole));
    Ok(json_response(reply::HistoryReply { room, epoch, messages, more, recovered }.body()))
}

pub(super) async fn receipt(
    State(api): State<Arc<Api>>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> ApiResult<Receipt> {
    let key = caller.require(Scope::Publish, "see receipts")?;
    let Path((room, offset)) = path?;
    let room = RoomName::parse(&room)?;
    if room.kind() != RoomKind::Broadcast {
        key.require_in(Verb::Publish, &room)?;
    }
    let offset = query::parse_offset(&offset)?;
    let receipt = api.services.hub.store.rooms.receipt(&room, offset).await.map_err(unavailable)?;
    let missing = || not_found(format!("room '{}' has no message {offset}", &*room));
    Ok(Json(receipt.ok_or_else(missing)?))
}

fn unknown_room(room: &RoomName) -> Refusal {
    not_found(format!("room '{}' has no members and no messages", &**room))
}
