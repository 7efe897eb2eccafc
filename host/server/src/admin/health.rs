//! `/livez` and `/readyz`.

use super::api::Api;
use crate::hub::{CONNECTION_BYTES, Condition};
use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long the store may take to answer a readiness check.
const STORE: Duration = Duration::from_secs(2);

pub(super) const LIVE: &str = "live\n";

pub(super) async fn live() -> &'static str {
    LIVE
}

#[derive(Serialize)]
pub(super) struct Readiness {
    ready: bool,
    /// Why not; or, of a node that is ready, what it cannot do, as no other can.
    reasons: Vec<String>,
    /// Each plugin's state. A plugin that does not work closes its own rooms; the node stays ready for all others.
    plugins: BTreeMap<String, Condition>,
}

pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Readiness>) {
    let (mut reasons, mut degraded, mut scarce) = (vec![], None, None);
    if api.stopping.is_cancelled() {
        reasons.push("draining: this node is about to stop".to_owned());
    }
    reasons.extend(api.services.hub.vitals.failure().map(str::to_owned));
    let memory = &api.services.hub.memory;
    // Nobody else would be let in.
    if memory.total() + CONNECTION_BYTES >= memory.limit() {
        let (used, limit) = (memory.total(), memory.limit());
        reasons.push(format!(
            "memory: {used} bytes are held and {limit} may be (memory.limit): new sessions, rooms and what would be kept are refused"
        ));
    } else if memory.is_under_pressure() {
        let (used, limit) = (memory.total(), memory.limit());
        scarce = Some(format!(
            "memory: {used} bytes are held and {limit} may be (memory.limit): principals for whom most is held get no more"
        ));
    }
    if let Some(remote) = &api.services.hub.store.remote {
        match tokio::time::timeout(STORE, remote.check()).await {
            // All nodes would be taken out of service together, with what they can still do.
            Ok(Ok(part)) => degraded = part,
            Ok(Err(error)) => reasons.push(error.to_string()),
            Err(_) => reasons.push("the store did not answer within 2 s".to_owned()),
        }
    }
    let plugins = api.services.hub.wards().iter().map(|ward| (ward.name(), ward.condition())).collect();
    let ready = reasons.is_empty();
    reasons.extend(degraded);
    reasons.extend(scarce);
    // Elsewhere new clients may find a place, but those that are here are served.
    reasons.extend(api.limits.shortage());
    reasons.extend(api.status.all_wrong());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons, plugins }))
}

/// Of a node that is on its way.
pub(super) fn waiting(reason: String) -> (StatusCode, Json<Readiness>) {
    let readiness = Readiness { ready: false, reasons: vec![reason], plugins: BTreeMap::new() };
    (StatusCode::SERVICE_UNAVAILABLE, Json(readiness))
}
