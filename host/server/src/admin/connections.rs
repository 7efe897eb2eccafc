//! The calls `/v1/connections…`. Sees only the connections of this node.

use super::{
    api::{Api, ApiError, ApiResult, Caller, PageQuery, next_cursor, not_found},
    bans,
    detached::to_the_end,
    query::QueryParameters,
};
use crate::{
    audit::{AuditAction, AuditEvent},
    hub::Connection,
};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, atomic::Ordering};
use switchyard_protocol::{Close, Refusal};
use switchyard_store::{ConnectionId, denial::DenialTarget, key::Scope};

#[derive(Serialize)]
pub(super) struct ConnectionView {
    id: String,
    principal: Arc<str>,
    /// The id of its key.
    key: Arc<str>,
    remote: String,
    /// Unix milliseconds.
    since: u64,
    rooms: u32,
    /// Number of bytes in the outbox.
    waiting: usize,
}

#[derive(Serialize)]
pub(super) struct ConnectionList {
    connections: Vec<ConnectionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn view(connection: &Arc<Connection>) -> ConnectionView {
    ConnectionView {
        id: connection.id.to_string(),
        principal: connection.principal.clone(),
        key: connection.key.load().id.clone(),
        remote: connection.remote.to_string(),
        since: connection.since,
        rooms: connection.rooms.load(Ordering::Relaxed),
        waiting: connection.outbox.queued_bytes(),
    }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller<PageQuery>,
) -> ApiResult<ConnectionList> {
    caller.require(Scope::Admin, "see connections")?;
    let query = caller.query()?;
    let limit = query.limit()?;
    let after = query.after(ConnectionId::parse)?;
    let page = api.services.hub.connections.page(after, limit);
    let next = next_cursor(&page, limit, |connection| connection.id.to_string());
    Ok(Json(ConnectionList { connections: page.iter().map(view).collect(), next }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> ApiResult<ConnectionView> {
    caller.require(Scope::Admin, "see connections")?;
    Ok(Json(view(&find(&api, &id?.0)?)))
}

/// `?ban=10m`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndQuery {
    /// For how long its principal is banned.
    ban: Option<String>,
}

impl QueryParameters for EndQuery {}

/// Closes the connection (4403) and ends its session. With `ban`, also bans its principal.
pub(super) async fn end(
    State(api): State<Arc<Api>>,
    caller: Caller<EndQuery>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin, "end connections")?;
    let connection = find(&api, &id?.0)?;
    let duration =
        caller.query()?.ban.as_deref().map(|text| bans::parse_ban_duration("ban", text)).transpose()?;
    let ended = async move {
        // Before the ban, which closes the connection, so that its session ends with it.
        connection.ended.store(true, Ordering::Relaxed);
        if let Some(duration) = duration {
            let target = DenialTarget::Principal(connection.principal.clone());
            if let Err(refusal) = bans::ban(&api, &caller, target, duration).await {
                connection.ended.store(false, Ordering::Relaxed);
                return Err(refusal.into());
            }
        }
        connection.outbox.close(Close::Forbidden);
        let event = AuditEvent::new(caller.actor(), AuditAction::ConnectionClose, connection.id);
        api.services.hub.audit.record(&event.detail("of", &*connection.principal));
        Ok(StatusCode::NO_CONTENT)
    };
    to_the_end(ended).await
}

fn find(api: &Api, id: &str) -> Result<Arc<Connection>, Refusal> {
    let connection = ConnectionId::parse(id).and_then(|id| api.services.hub.connections.get(id));
    connection
        .ok_or_else(|| not_found(format!("there is no connection '{}' on this node", id.escape_debug())))
}
