//! `/v1/connections…`

use super::api::{Answer, Api, Caller, Failure, Paging, next, not_found};
use crate::hub::Connection;
use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::Serialize;
use std::sync::{Arc, atomic::Ordering};
use switchyard_protocol::{Close, Refusal};
use switchyard_store::{ConnectionId, key::Scope};

#[derive(Serialize)]
pub(super) struct Shown {
    id: String,
    principal: Arc<str>,
    remote: String,
    /// Unix milliseconds.
    since: u64,
    rooms: u32,
    /// Bytes in its outbox.
    waiting: usize,
}

#[derive(Serialize)]
pub(super) struct List {
    connections: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn shown(connection: &Arc<Connection>) -> Shown {
    Shown {
        id: connection.id.to_string(),
        principal: connection.principal.clone(),
        remote: connection.remote.to_string(),
        since: connection.since,
        rooms: connection.rooms.load(Ordering::Relaxed),
        waiting: connection.outbox.waiting(),
    }
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Answer<List> {
    caller.with(Scope::Admin, "see connections")?;
    let Query(paging) = paging?;
    let limit = paging.limit()?;
    let after = match paging.after.as_str() {
        "" => None,
        cursor => Some(ConnectionId::parse(cursor).ok_or_else(|| {
            Refusal::invalid(format!("after is '{}', but would be the next of a page", cursor.escape_debug()))
        })?),
    };
    let page = api.services.hub.connections.page(after, limit);
    let next = next(&page, limit, |connection| connection.id.to_string());
    Ok(Json(List { connections: page.iter().map(shown).collect(), next }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Answer<Shown> {
    caller.with(Scope::Admin, "see connections")?;
    Ok(Json(shown(&find(&api, &id?.0)?)))
}

/// Closes the connection (4403) and ends its session.
pub(super) async fn end(
    State(api): State<Arc<Api>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Failure> {
    let key = caller.with(Scope::Admin, "end connections")?;
    let connection = find(&api, &id?.0)?;
    tracing::info!(by = &*key.principal, connection = %connection.id, "an operator ends a connection");
    connection.ended.store(true, Ordering::Relaxed);
    connection.outbox.close(Close::Forbidden);
    Ok(StatusCode::NO_CONTENT)
}

fn find(api: &Api, id: &str) -> Result<Arc<Connection>, Refusal> {
    let connection = ConnectionId::parse(id).and_then(|id| api.services.hub.connections.get(id));
    connection.ok_or_else(|| not_found(format!("no connection '{}' lives on this node", id.escape_debug())))
}
