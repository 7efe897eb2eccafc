//! `/v1/plugins…`: what governs which rooms, on which node and how it fares; other versions, and candidates.

use super::{
    api::{Api, ApiError, ApiResult, Caller},
    body::UnreadBody,
    messages::max_body_bytes,
};
use crate::rollout::{
    AUDIT_TARGET, Deployment, NodeReport, PluginReport, PluginSlot, PluginState, PluginView,
};
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
use switchyard_store::{ActivationSource, key::Scope};

type Name = Result<Path<String>, PathRejection>;

#[derive(Serialize)]
pub(super) struct List {
    plugins: Vec<Listed>,
}

#[derive(Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    view: PluginView,
    /// Why no version is active; the plugin's rooms are closed.
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
    report: PluginReport,
}

pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller) -> ApiResult<List> {
    caller.require(Scope::Admin, "see plugins")?;
    let reports = reports(&api).await;
    let plugins = api.rollout.slots().iter().map(|slot| listed(slot, &reports)).collect();
    Ok(Json(List { plugins }))
}

pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> ApiResult<Listed> {
    caller.require(Scope::Admin, "see plugins")?;
    let slot = api.rollout.slot(&name?.0)?;
    Ok(Json(listed(slot, &reports(&api).await)))
}

/// Vouches for the Wasm of a body.
const SIGNATURE: &str = "x-signature";

/// Deploys the Wasm of the body.
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    headers: HeaderMap,
    body: UnreadBody,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "load plugins")?;
    let by = Some(key.principal.to_string());
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    let (code, signature) = (body.clone(), signature(&headers));
    let deployment = Deployment { code, signature, source: ActivationSource::Load, by };
    let slot = api.rollout.load(&name?.0, deployment).await?;
    Ok(Json(listed(slot, &reports(&api).await)))
}

fn signature(headers: &HeaderMap) -> Option<String> {
    headers.get(SIGNATURE).map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

#[derive(Deserialize)]
pub(super) struct Back {
    /// How the SHA-256 of the version begins.
    to: Option<String>,
}

/// Activates the version before the active one, or another one that is kept.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    back: Result<Query<Back>, QueryRejection>,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "roll plugins back")?;
    let by = Some(key.principal.to_string());
    let slot = api.rollout.rollback(&name?.0, back?.0.to, by).await?;
    Ok(Json(listed(slot, &reports(&api).await)))
}

/// Starts the Wasm of the body as a candidate.
pub(super) async fn start_shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    headers: HeaderMap,
    body: UnreadBody,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "start candidates")?;
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    let slot = api.rollout.start_shadow(&name?.0, body.clone(), signature(&headers)).await?;
    log_audit(&key.principal, slot, "candidate started");
    Ok(Json(listed(slot, &reports(&api).await)))
}

pub(super) async fn stop_shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "drop candidates")?;
    let slot = api.rollout.stop_shadow(&name?.0).await?;
    log_audit(&key.principal, slot, "candidate dropped");
    Ok(Json(listed(slot, &reports(&api).await)))
}

/// How the candidate compares.
pub(super) async fn shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
) -> Result<Json<serde_json::Value>, ApiError> {
    caller.require(Scope::Admin, "see candidates")?;
    let Path(name) = name?;
    let shadow = api.rollout.slot(&name)?.view().shadow;
    let none = || super::api::not_found(format!("plugin '{name}' has no candidate on this node"));
    Ok(Json(serde_json::to_value(shadow.ok_or_else(none)?).expect("plain data")))
}

/// Deploys the candidate.
pub(super) async fn promote(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> ApiResult<Listed> {
    let key = caller.require(Scope::Admin, "promote candidates")?;
    let slot = api.rollout.promote(&name?.0, Some(key.principal.to_string())).await?;
    Ok(Json(listed(slot, &reports(&api).await)))
}

/// Writes an audit line. Activations write theirs in `rollout`.
fn log_audit(by: &str, slot: &PluginSlot, what: &str) {
    tracing::info!(target: AUDIT_TARGET, by, plugin = slot.name(), "{what}");
}

/// Those of all nodes, as they last said; this node's are its own. Without a store there are none of others.
async fn reports(api: &Api) -> Vec<(Arc<str>, NodeReport)> {
    let said = api.services.hub.store.plugins.reports().await;
    let said = said.inspect_err(|error| tracing::debug!(%error, "reports of nodes"));
    let read = |(node, report): (Arc<str>, String)| Some((node, serde_json::from_str(&report).ok()?));
    said.unwrap_or_default().into_iter().filter_map(read).collect()
}

fn listed(slot: &PluginSlot, reports: &[(Arc<str>, NodeReport)]) -> Listed {
    let view = slot.view();
    let failed = match &view.state {
        PluginState::Failed { reason } => Some(reason.clone()),
        _ => None,
    };
    let on_node = |(node, report): &(Arc<str>, NodeReport)| {
        let (node, host) = (node.clone(), report.host.clone());
        Some(OnNode { node, host, report: report.plugins.get(&view.name)?.clone() })
    };
    let nodes = reports.iter().filter_map(on_node).collect();
    Listed { view, failed, nodes }
}
