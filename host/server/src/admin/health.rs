//! The calls `/livez` and `/readyz`. Does not check plugins and files itself.

use super::api::Api;
use crate::{hub::CONNECTION_BYTES, rollout::PluginState};
use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long the store may take to answer a readiness check.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The answer of `/livez`.
pub(super) const LIVE: &str = "live\n";

pub(super) async fn live() -> &'static str {
    LIVE
}

#[derive(Serialize)]
pub(super) struct Readiness {
    ready: bool,
    /// Whether the node is ready, and there are reasons nevertheless.
    degraded: bool,
    /// Why the node is not ready; or what a ready node cannot do, or what an operator should look at.
    reasons: Vec<String>,
    /// The state of each plugin. A plugin that does not work closes its own rooms only, so the node stays
    /// ready.
    plugins: BTreeMap<String, PluginState>,
}

pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Readiness>) {
    let (mut reasons, mut degraded, mut pressure) = (vec![], None, None);
    if api.stopping.is_cancelled() {
        reasons.push("draining: this node is about to stop".to_owned());
    }
    reasons.extend(api.services.hub.vitals.failure().map(str::to_owned));
    let memory = &api.services.hub.memory;
    // No new client would be admitted.
    if memory.total() + CONNECTION_BYTES >= memory.limit() {
        let (used, limit) = (memory.total(), memory.limit());
        reasons.push(format!(
            "memory: {used} of {limit} bytes (memory.limit) are used; new sessions, rooms and messages are refused"
        ));
    } else if memory.is_under_pressure() {
        let (used, limit) = (memory.total(), memory.limit());
        pressure = Some(format!(
            "memory: {used} of {limit} bytes (memory.limit) are used; principals that use most of it get no more"
        ));
    }
    if let Some(remote) = &api.services.hub.store.remote {
        match tokio::time::timeout(STORE_CHECK_TIMEOUT, remote.check()).await {
            // The same is true of every node. If they all were not ready, nothing would be served at all.
            Ok(Ok(part)) => degraded = part,
            Ok(Err(error)) => reasons.push(error.to_string()),
            Err(_) => reasons.push("the store did not answer within 2 s".to_owned()),
        }
    }
    let plugins = api.rollout.slots().iter().map(|slot| (slot.name(), slot.plugin_state())).collect();
    let ready = reasons.is_empty();
    reasons.extend(degraded);
    reasons.extend(pressure);
    // Other nodes may have room for new clients, but this one still serves its own.
    reasons.extend(api.limits.shortage());
    reasons.extend(api.status.problems());
    reasons.extend(api.services.tokens.problems());
    reasons.extend(api.rollout.governance_drift());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let degraded = ready && !reasons.is_empty();
    (status, Json(Readiness { ready, degraded, reasons, plugins }))
}

/// The answer of `/readyz` while a node is starting.
pub(super) fn starting(reason: String) -> (StatusCode, Json<Readiness>) {
    let (reasons, plugins) = (vec![reason], BTreeMap::new());
    let readiness = Readiness { ready: false, degraded: false, reasons, plugins };
    (StatusCode::SERVICE_UNAVAILABLE, Json(readiness))
}
