//! `/v1/plugins…`: what governs which rooms, how it fares, and other versions.

use super::api::{Answer, Api, Caller};
use crate::{
    hub::{Charge, Ward},
    key::{Key, Scope},
    plugin::{Info, Status},
    room::Pattern,
};
use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, State,
        rejection::{BytesRejection, PathRejection},
    },
};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
pub struct List {
    plugins: Vec<Shown>,
}

#[derive(Serialize)]
pub struct Shown {
    name: String,
    rooms: Vec<Pattern>,
    #[serde(flatten)]
    charge: Option<InCharge>,
    /// Why it could not be loaded; its rooms are closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

#[derive(Serialize)]
struct InCharge {
    plugin: Info,
    #[serde(flatten)]
    status: Status,
}

pub async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Answer<List> {
    caller.with(Scope::Admin, "see plugins")?;
    Ok(Json(List { plugins: api.services.hub.wards().iter().map(shown).collect() }))
}

/// Puts the Wasm of the body in charge.
pub async fn put(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Shown> {
    let key = caller.with(Scope::Admin, "load plugins")?;
    let Path(name) = name?;
    let ward = api.services.hub.put(&name, body?).await?;
    Ok(changed(key, ward, "put"))
}

/// Puts the version before this one in charge.
pub async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Shown> {
    let key = caller.with(Scope::Admin, "roll plugins back")?;
    let ward = api.services.hub.rollback(&name?.0).await?;
    Ok(changed(key, ward, "rollback"))
}

/// Leaves a line for those who ask later who did it.
fn changed(key: &Key, ward: &Ward, how: &str) -> Json<Shown> {
    let shown = shown(ward);
    let sha256 = shown.charge.as_ref().map(|charge| charge.plugin.sha256.as_str());
    tracing::info!(by = &*key.principal, how, plugin = shown.name, sha256, "another version is in charge");
    Json(shown)
}

fn shown(ward: &Ward) -> Shown {
    let (charge, failed) = match &**ward.charge.load() {
        Charge::Failed(reason) => (None, Some(reason.clone())),
        Charge::Plugin { plugin, stats } => {
            (Some(InCharge { plugin: plugin.info().clone(), status: stats.status() }), None)
        }
    };
    Shown { name: ward.name(), rooms: ward.config.load().rooms.clone(), charge, failed }
}
