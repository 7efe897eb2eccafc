//! The call `POST /v1/reload`: reading the configuration again, or telling what that would change. Does not read it.

use super::{
    api::{Api, ApiResult, Caller},
    query::QueryParameters,
    reload_requests::ReloadReport,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use std::sync::Arc;
use switchyard_store::key::Scope;

/// `?dry_run=true&confirm=true`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadQuery {
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
    /// Apply what would need a second SIGHUP.
    #[serde(default)]
    confirm: bool,
}

impl QueryParameters for ReloadQuery {}

pub(super) async fn reload(
    State(api): State<Arc<Api>>,
    caller: Caller<ReloadQuery>,
) -> ApiResult<ReloadReport> {
    caller.require(Scope::Admin, "reload the configuration")?;
    let ReloadQuery { dry_run, confirm } = caller.query()?;
    Ok(Json(api.reload.request(*dry_run, *confirm).await?))
}
