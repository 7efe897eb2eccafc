//! `GET /v1/rooms…`

use super::api::{Answer, Api, Caller, Failure, Paging, next, not_found, raw};
use crate::hub::unavailable;
use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    response::Response,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use switchyard_protocol::{Position, Refusal, reply, room::RoomName};
use switchyard_store::{History, PageLimit, Reader, Receipt, RoomSummary, key::Scope};

/// Of messages in one answer, unless the first alone has more.
const HISTORY_BYTES: usize = 1 << 20;

#[derive(Serialize)]
pub(super) struct Room {
    #[serde(flatten)]
    summary: RoomSummary,
    /// The plugin that decides; `null` for none.
    governor: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Rooms {
    rooms: Vec<Room>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn shown(api: &Api, summary: RoomSummary) -> Room {
    let name = RoomName::parse(&summary.room).ok();
    let governor = name.and_then(|name| api.services.hub.governor(&name).map(str::to_owned));
    Room { summary, governor }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Answer<Rooms> {
    caller.with(Scope::Admin, "see rooms")?;
    let Query(paging) = paging?;
    let limit = paging.limit()?;
    let rooms = api.services.hub.store.rooms.list(&paging.after, limit).await.map_err(unavailable)?;
    let next = next(&rooms, limit, |room| room.room.to_string());
    Ok(Json(Rooms { rooms: rooms.into_iter().map(|room| shown(&api, room)).collect(), next }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    room: Result<Path<String>, PathRejection>,
) -> Answer<Room> {
    caller.with(Scope::Admin, "see rooms")?;
    let Path(room) = room?;
    let room = RoomName::parse(&room)?;
    let summary = api.services.hub.store.rooms.summary(&room).await.map_err(unavailable)?;
    let summary = summary.ok_or_else(|| unknown(&room))?;
    Ok(Json(shown(&api, summary)))
}

/// `?epoch=E&offset=N&limit=L`
#[derive(Deserialize)]
pub(super) struct Since {
    epoch: Option<Arc<str>>,
    offset: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn history(
    State(api): State<Arc<Api>>,
    caller: Caller,
    room: Result<Path<String>, PathRejection>,
    since: Result<Query<Since>, QueryRejection>,
) -> Result<Response, Failure> {
    let key = caller.with(Scope::Admin, "see rooms")?;
    let Path(room) = room?;
    let room = RoomName::parse(&room)?;
    let Query(Since { epoch, offset, limit }) = since?;
    let limit = limit.unwrap_or(100);
    if !(1..=switchyard_protocol::request::MAX_HISTORY_MESSAGES).contains(&limit) {
        return Err(Refusal::invalid(format!("limit is {limit}, but would be 1 to 1000")).into());
    }
    let since = match (epoch, offset) {
        (Some(epoch), Some(offset)) => Some(Position { epoch, offset }),
        (None, None) => None,
        _ => return Err(Refusal::invalid("epoch and offset come together").into()),
    };
    if api.services.hub.store.rooms.summary(&room).await.map_err(unavailable)?.is_none() {
        return Err(unknown(&room).into());
    }
    let limit = PageLimit { messages: limit, bytes: HISTORY_BYTES };
    let history = api.services.hub.read(&key.principal, &room, since.as_ref(), limit, Reader::Other).await;
    let History { newest, messages, more, whole, .. } = history.map_err(unavailable)?;
    let (room, epoch, recovered) = (room.shared(), newest.epoch, since.map(|_| whole));
    Ok(raw(reply::HistoryReply { room, epoch, messages, more, recovered }.body()))
}

pub(super) async fn receipt(
    State(api): State<Arc<Api>>,
    caller: Caller,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Answer<Receipt> {
    caller.with(Scope::Publish, "see receipts")?;
    let Path((room, offset)) = path?;
    let room = RoomName::parse(&room)?;
    let receipt = api.services.hub.store.rooms.receipt(&room, offset).await.map_err(unavailable)?;
    let missing = || not_found(format!("room '{}' has no message {offset}", &*room));
    Ok(Json(receipt.ok_or_else(missing)?))
}

fn unknown(room: &RoomName) -> Refusal {
    not_found(format!("room '{}' has no members and no messages", &**room))
}
