//! The listener for operators, and its calls: publishing over HTTP, rooms, connections, plugins, health and
//! metrics. Speaks plain HTTP, without TLS.

mod api;
mod bans;
mod body;
mod call_limiter;
mod connections;
mod detached;
mod health;
mod hosts;
mod incoming_body;
mod listener;
mod messages;
mod metrics;
mod plugins;
mod query;
mod recording;
mod reload;
mod reload_requests;
mod rooms;
mod slots;
mod status;
mod timed_stream;
mod tokens;

pub use listener::AdminListener;
pub(crate) use reload_requests::{ReloadHandle, ReloadOptions, ReloadReport, ReloadRequest};
pub(crate) use status::Status;

use crate::http;
use api::Api;
use axum::{
    Router,
    routing::{get, post, put},
};
use serde::Deserialize;
use std::{net::SocketAddr, sync::Arc};
use switchyard_process::unit;

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// The address to listen on.
    #[serde(deserialize_with = "unit::address")]
    pub listen: SocketAddr,
    /// Host names that requests may be sent to, in addition to IP addresses and names without a dot.
    #[serde(deserialize_with = "hosts::deserialize_hosts")]
    pub hosts: Vec<String>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 9090).into(), hosts: vec![] }
    }
}

fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/publish", post(messages::publish))
        .route("/v1/broadcast", post(messages::broadcast))
        .route("/v1/rooms", get(rooms::list))
        .route("/v1/rooms/{room}", get(rooms::show))
        .route("/v1/rooms/{room}/history", get(rooms::history))
        .route("/v1/rooms/{room}/messages/{offset}/receipt", get(rooms::receipt))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/{id}", get(connections::show).delete(connections::end))
        .route("/v1/bans", get(bans::list))
        .route("/v1/principals/{principal}/ban", put(bans::ban_principal).delete(bans::unban_principal))
        .route("/v1/addresses/{address}/ban", put(bans::ban_address).delete(bans::unban_address))
        .route("/v1/tokens/revoke", post(bans::revoke_tokens))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{name}", get(plugins::show).put(plugins::load).delete(slots::remove))
        .route("/v1/plugins/{name}/record", get(recording::record))
        .route("/v1/plugins/{name}/rollback", post(plugins::rollback))
        .route("/v1/plugins/{name}/schema", get(plugins::schema))
        .route("/v1/plugins/{name}/slot", put(slots::change))
        .route(
            "/v1/plugins/{name}/shadow",
            get(plugins::shadow).put(plugins::start_shadow).delete(plugins::stop_shadow),
        )
        .route("/v1/plugins/{name}/shadow/promote", post(plugins::promote))
        .route("/v1/tokens/check", post(tokens::check))
        .route("/v1/reload", post(reload::reload))
        .route("/metrics", get(metrics::show))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(async || api::openapi()))
        .fallback(async || http::refuse(&api::not_found("there is nothing at this path; see /openapi.json")))
        .method_not_allowed_fallback(async || http::refuse(&api::method_not_allowed()))
        .with_state(api)
}
