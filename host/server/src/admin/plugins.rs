//! The calls `/v1/plugins…`: the plugins and their versions on all nodes, loading, rolling back, and
//! candidates. Does not decide which version is active: `rollout` does.

use super::{
    api::{Api, ApiError, ApiResult, Caller, json_response, not_found, to_json},
    body::UnreadBody,
    messages::max_body_bytes,
    query::QueryParameters,
};
use crate::audit::{AuditAction, AuditEvent};
use crate::hub::conflict;
use crate::rollout::{
    Deployment, NO_SHARED_STORE, NewCandidateView, NodeReport, PluginReport, PluginSlot, PluginState,
    PluginView,
};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::HeaderMap,
    response::Response,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use switchyard_plugin::digest;
use switchyard_protocol::room::RoomPattern;
use switchyard_store::{ActivationSource, StoredSettings, key::Scope};

pub(super) type NamePath = Result<Path<String>, PathRejection>;

#[derive(Serialize)]
pub(super) struct PluginList {
    plugins: Vec<PluginDetails>,
    /// Candidates of plugins that have not been added yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<NewCandidateView>,
    /// How this node differs from what all nodes have agreed on.
    drift: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct PluginDetails {
    #[serde(flatten)]
    view: PluginView,
    /// Why no version is active. The plugin's rooms are closed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    /// Whether it is in the configuration of this node or in the store.
    origin: Origin,
    /// What operators have set. Only for a plugin of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<StoredSlot>,
    /// What each node runs.
    nodes: Vec<PluginOnNode>,
}

/// What operators have set for a plugin of the store.
#[derive(Serialize)]
struct StoredSlot {
    rooms: Vec<RoomPattern>,
    #[serde(flatten)]
    settings: StoredSettings,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    File,
    Store,
}

#[derive(Serialize)]
struct PluginOnNode {
    node: Arc<str>,
    host: String,
    #[serde(flatten)]
    report: PluginReport,
}

pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller) -> ApiResult<PluginList> {
    caller.require(Scope::Admin, "see plugins")?;
    let reports = read_reports(&api).await;
    let plugins = api.rollout.slots().iter().map(|slot| details(&api, slot, &reports)).collect();
    let (candidates, drift) = (api.rollout.new_candidates(), api.rollout.governance_drift());
    Ok(Json(PluginList { plugins, candidates, drift }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
) -> ApiResult<PluginDetails> {
    caller.require(Scope::Admin, "see plugins")?;
    // Another node may have changed it just now. If the store does not answer, what is known here is shown.
    api.rollout.poll_governance().await.ok();
    let slot = api.rollout.slot(&name?.0)?;
    Ok(Json(describe(&api, &slot).await))
}

/// The JSON Schemas of the active version.
#[derive(Serialize)]
pub(super) struct PluginSchemas {
    /// Of its configuration.
    config: Option<serde_json::Value>,
    /// Of the filters of its rooms.
    filter: Option<serde_json::Value>,
}

pub(super) async fn schema(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
) -> ApiResult<PluginSchemas> {
    caller.require(Scope::Admin, "see plugins")?;
    let slot = api.rollout.slot(&name?.0)?;
    let none = || conflict(format!("plugin '{}' has no active version", slot.name()));
    let plugin = slot.plugin().ok_or_else(none)?;
    let info = plugin.info();
    Ok(Json(PluginSchemas { config: info.config_schema.clone(), filter: info.filter_schema.clone() }))
}

/// The header with the signature of the Wasm in the body.
const SIGNATURE_HEADER: &str = "x-signature";

/// Deploys the Wasm in the body.
pub(super) async fn load(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
    headers: HeaderMap,
    body: UnreadBody,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin, "load plugins")?;
    let by = caller.actor();
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    let (code, signature) = (body.clone(), signature(&headers));
    let Path(name) = name?;
    // The code of an unknown plugin waits for its slot.
    if let Err(unknown) = api.rollout.slot(&name) {
        if api.services.hub.store.remote.is_none() {
            return Err(conflict(format!("{}; {NO_SHARED_STORE}", unknown.message)).into());
        }
        let sha256 = digest(&code);
        let staged = api.rollout.stage(&name, code, signature);
        let event = AuditEvent::new(by, AuditAction::PluginStage, &name).digest(sha256).result(&staged);
        api.services.hub.audit.record(&event);
        let staged = staged?;
        return Ok(json_response(to_json(staged)));
    }
    let deployment = Deployment { code, signature, source: ActivationSource::Load, by };
    let slot = api.rollout.load(&name, deployment).await?;
    Ok(json_response(to_json(describe(&api, &slot).await)))
}

fn signature(headers: &HeaderMap) -> Option<String> {
    headers.get(SIGNATURE_HEADER).map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

/// `?to=SHA256`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackQuery {
    /// The start of the SHA-256 of the version.
    to: Option<String>,
}

impl QueryParameters for RollbackQuery {}

/// Activates the version before the active one, or another stored version.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller<RollbackQuery>,
    name: NamePath,
) -> ApiResult<PluginDetails> {
    caller.require(Scope::Admin, "roll plugins back")?;
    let by = caller.actor();
    let slot = api.rollout.rollback(&name?.0, caller.query()?.to.clone(), by).await?;
    Ok(Json(describe(&api, &slot).await))
}

/// Starts the Wasm in the body as a candidate.
pub(super) async fn start_shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
    headers: HeaderMap,
    body: UnreadBody,
) -> ApiResult<PluginDetails> {
    caller.require(Scope::Admin, "start candidates")?;
    let body = body.read(&api, &caller, max_body_bytes(&api)).await?;
    let (signature, by) = (signature(&headers), caller.actor());
    let slot = api.rollout.start_shadow(&name?.0, body.clone(), signature, &by).await?;
    Ok(Json(describe(&api, &slot).await))
}

pub(super) async fn stop_shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin, "drop candidates")?;
    let Path(name) = name?;
    if let Some(dropped) = api.rollout.drop_new_candidate(&name, &caller.actor()) {
        return Ok(json_response(to_json(dropped)));
    }
    let slot = api.rollout.stop_shadow(&name, &caller.actor()).await?;
    Ok(json_response(to_json(describe(&api, &slot).await)))
}

/// Compares the candidate with the active version.
pub(super) async fn shadow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
) -> Result<Json<serde_json::Value>, ApiError> {
    caller.require(Scope::Admin, "see candidates")?;
    let Path(name) = name?;
    let shadow = match api.rollout.new_candidate(&name) {
        Some(candidate) => Some(candidate.shadow),
        None => api.rollout.slot(&name)?.view().shadow,
    };
    let none = || not_found(format!("plugin '{name}' has no candidate on this node"));
    Ok(Json(serde_json::to_value(shadow.ok_or_else(none)?).expect("plain data")))
}

/// Deploys the candidate.
pub(super) async fn promote(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
) -> ApiResult<PluginDetails> {
    caller.require(Scope::Admin, "promote candidates")?;
    let slot = api.rollout.promote(&name?.0, &caller.actor()).await?;
    Ok(Json(describe(&api, &slot).await))
}

/// The latest reports of all nodes. The memory store has only those of this node. Empty if the store does not
/// answer.
async fn read_reports(api: &Api) -> Vec<(Arc<str>, NodeReport)> {
    let stored = api.services.hub.store.plugins.reports().await;
    let stored = stored.inspect_err(|error| tracing::debug!(%error, "cannot read the reports of nodes"));
    let parse = |(node, report): (Arc<str>, String)| Some((node, serde_json::from_str(&report).ok()?));
    stored.unwrap_or_default().into_iter().filter_map(parse).collect()
}

/// A plugin, for the operator who has changed it.
pub(super) async fn describe(api: &Api, slot: &PluginSlot) -> PluginDetails {
    details(api, slot, &read_reports(api).await)
}

fn details(api: &Api, slot: &PluginSlot, reports: &[(Arc<str>, NodeReport)]) -> PluginDetails {
    let view = slot.view();
    let failed = match &view.state {
        PluginState::Failed { reason } => Some(reason.clone()),
        _ => None,
    };
    let on_node = |(node, report): &(Arc<str>, NodeReport)| {
        let (node, host) = (node.clone(), report.host.clone());
        // The last report of this node may be older than what it shows.
        let plugin = match api.rollout.is_own_report(report) {
            true => slot.report(),
            false => report.plugins.get(&view.name)?.clone(),
        };
        Some(PluginOnNode { node, host, report: plugin })
    };
    let nodes = reports.iter().filter_map(on_node).collect();
    let (origin, slot) = match slot.config().file {
        Some(_) => (Origin::File, None),
        None => {
            let stored = api.rollout.stored_settings(&view.name);
            (Origin::Store, stored.map(|(rooms, settings)| StoredSlot { rooms, settings }))
        }
    };
    PluginDetails { view, failed, origin, slot, nodes }
}
