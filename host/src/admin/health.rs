//! `/livez` and `/readyz`.

use super::api::Api;
use crate::hub::{Charge, Ward};
use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long the store may take to answer a readiness check.
const STORE: Duration = Duration::from_secs(2);

pub async fn live() -> &'static str {
    "live\n"
}

#[derive(Serialize)]
pub struct Readiness {
    ready: bool,
    /// Why not.
    reasons: Vec<String>,
    /// Each plugin's state. A plugin that does not work closes its own rooms; the node stays ready for all others.
    plugins: BTreeMap<String, serde_json::Value>,
}

pub async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Readiness>) {
    let mut reasons = vec![];
    if api.draining.is_cancelled() {
        reasons.push("draining: this node is about to stop".to_owned());
    }
    match tokio::time::timeout(STORE, api.services.hub.store.check()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => reasons.push(error.to_string()),
        Err(_) => reasons.push("the store did not answer within 2 s".to_owned()),
    }
    let state = |ward: &Ward| match &**ward.charge.load() {
        Charge::Failed(reason) => serde_json::json!({"state": "failed", "reason": reason}),
        Charge::Plugin { stats, .. } => serde_json::to_value(stats.status().state).unwrap_or_default(),
    };
    let plugins = api.services.hub.wards().iter().map(|ward| (ward.name(), state(ward))).collect();
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons, plugins }))
}
