//! The call `POST /v1/reload`: reading the configuration again, or telling what that would change. Does not read it.

use super::{
    api::{Api, ApiResult, Caller},
    query::QueryParameters,
    reload_requests::{ReloadOptions, ReloadReport},
};
use axum::{Json, extract::State};
use serde::Deserialize;
use std::sync::Arc;
use switchyard_store::key::Scope;

/// `?dry_run=true&confirm=true&clear_history=true`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadQuery {
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
    /// Apply what would need a second SIGHUP.
    #[serde(default)]
    confirm: bool,
    /// Whether rooms that change their plugin lose their history.
    #[serde(default)]
    clear_history: bool,
}

impl QueryParameters for ReloadQuery {}

pub(super) async fn reload(
    State(api): State<Arc<Api>>,
    caller: Caller<ReloadQuery>,
) -> ApiResult<ReloadReport> {
    caller.require(Scope::Admin, "reload the configuration")?;
    let ReloadQuery { dry_run, confirm: is_confirmed, clear_history: clears_history } = *caller.query()?;
    let options = ReloadOptions { dry_run, is_confirmed, clears_history };
    Ok(Json(api.reload.request(options, caller.actor()).await?))
}
