//! `/v1/plugins…`: what governs which rooms, on which node and how it fares; other versions, and candidates.

use super::{
    api::{Api, ApiError, ApiResult, Caller},
    body::UnreadBody,
    messages::max_body_bytes,
};
use crate::hub::{AUDIT, Condition, NodeReport, Origin, Reported, Shown, Ward};
use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::HeaderMap,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use switchyard_store::{How, key::Scope};

type Name = Result<Path<String>, PathRejection>;

#[derive(Serialize)]
pub(super) struct List {
    plugins: Vec<Listed>,
}

#[derive(Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    shown: Shown,
    /// Why nobody is in charge; its rooms are closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    /// Which node runs what.
    nodes: Vec<OnNode>,
}

#[derive(Serialize)]
struct OnNode {
    node: Arc<str>,
    host: String,
    #[serde(flatten)]
    reported: Reported,
}

pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller) -> ApiResult<List> {
    caller.require(Scope::Admin, "see plugins")?;
    let reports = reports(&api).await;
    let plugins = api.services.hub.wards().iter().map(|ward| listed(ward, &reports)).collect();
    Ok(Json(List { plugins }))
}

pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> ApiResult<Listed> {
    caller.require(Scope::Admin, "see plugins")?;
    let ward = api.services.hub.ward(&name?.0)?;
    Ok(Json(listed(ward, &reports(&api).await)))
}

/// Vouches for the Wasm of a body.
const SIGNATURE: &str = "x-signature";

/// Puts the Wasm of the body in charge.
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    headers: HeaderMap,
    body: UnreadBody,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "load plugins")?;
    let origin =
        Origin { how: How::Load, by: Some(key.principal.to_string()), signature: signature(&headers) };
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    let ward = api.services.hub.load_plugin(&name?.0, body.clone(), origin).await?;
    Ok(Json(listed(ward, &reports(&api).await)))
}

fn signature(headers: &HeaderMap) -> Option<String> {
    headers.get(SIGNATURE).map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

#[derive(Deserialize)]
pub(super) struct Back {
    /// How the SHA-256 of the version begins.
    to: Option<String>,
}

/// Puts the version before this one in charge, or another of those that are kept.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    back: Result<Query<Back>, QueryRejection>,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "roll plugins back")?;
    let by = Some(key.principal.to_string());
    let ward = api.services.hub.rollback(&name?.0, back?.0.to, by).await?;
    Ok(Json(listed(ward, &reports(&api).await)))
}

/// Starts the Wasm of the body as a candidate.
pub(super) async fn shade(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    headers: HeaderMap,
    body: UnreadBody,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "start candidates")?;
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    let ward = api.services.hub.shade(&name?.0, body.clone(), signature(&headers)).await?;
    note(key.principal.as_ref(), ward, "candidate started");
    Ok(Json(listed(ward, &reports(&api).await)))
}

pub(super) async fn unshade(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "drop candidates")?;
    let ward = api.services.hub.unshade(&name?.0).await?;
    note(key.principal.as_ref(), ward, "candidate dropped");
    Ok(Json(listed(ward, &reports(&api).await)))
}

/// How the candidate compares.
pub(super) async fn shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
) -> Result<Json<serde_json::Value>, ApiError> {
    caller.require(Scope::Admin, "see candidates")?;
    let Path(name) = name?;
    let shadow = api.services.hub.ward(&name)?.shown().shadow;
    let none = || super::api::not_found(format!("plugin '{name}' has no candidate on this node"));
    Ok(Json(serde_json::to_value(shadow.ok_or_else(none)?).expect("plain data")))
}

/// Puts the candidate in charge.
pub(super) async fn promote(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "promote candidates")?;
    let ward = api.services.hub.promote(&name?.0, Some(&key.principal)).await?;
    Ok(Json(listed(ward, &reports(&api).await)))
}

/// Leaves a line for those who ask later who did it. Versions that come into charge leave theirs in the hub.
fn note(by: &str, ward: &Ward, what: &str) {
    tracing::info!(target: AUDIT, by, plugin = ward.name(), "{what}");
}

/// Those of all nodes, as they last said; this node's are its own. Without a store there are none of others.
async fn reports(api: &Api) -> Vec<(Arc<str>, NodeReport)> {
    let said = api.services.hub.store.plugins.reports().await;
    let said = said.inspect_err(|error| tracing::debug!(%error, "reports of nodes"));
    let read = |(node, report): (Arc<str>, String)| Some((node, serde_json::from_str(&report).ok()?));
    said.unwrap_or_default().into_iter().filter_map(read).collect()
}

fn listed(ward: &Ward, reports: &[(Arc<str>, NodeReport)]) -> Listed {
    let shown = ward.shown();
    let failed = match &shown.condition {
        Condition::Failed { reason } => Some(reason.clone()),
        _ => None,
    };
    let on_node = |(node, report): &(Arc<str>, NodeReport)| {
        let reported = report.plugins.get(&shown.name)?.clone();
        Some(OnNode { node: node.clone(), host: report.host.clone(), reported })
    };
    let nodes = reports.iter().filter_map(on_node).collect();
    Listed { shown, failed, nodes }
}
