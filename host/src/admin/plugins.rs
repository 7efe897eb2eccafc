//! `GET /v1/plugins`: what governs which rooms, and how it fares.

use super::api::{Answer, Api, Caller};
use crate::{
    hub::{Charge, Ward},
    key::Scope,
    plugin::{Info, Status},
    room::Pattern,
};
use axum::{Json, extract::State};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
pub struct List {
    plugins: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
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
    let shown = |ward: &Ward| {
        let (charge, failed) = match &**ward.charge.load() {
            Charge::Failed(reason) => (None, Some(reason.clone())),
            Charge::Plugin { plugin, stats } => {
                (Some(InCharge { plugin: plugin.info().clone(), status: stats.status() }), None)
            }
        };
        Shown { name: ward.name.clone(), rooms: ward.rooms.clone(), charge, failed }
    };
    Ok(Json(List { plugins: api.services.hub.wards().iter().map(shown).collect() }))
}
