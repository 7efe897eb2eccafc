//! The operators' listener: publishing over HTTP, rooms, connections, plugins, health and metrics.

mod api;
mod connections;
mod health;
mod messages;
mod metrics;
mod plugins;
mod rooms;

use crate::{protocol::http, session::Services, unit};
use api::Api;
use axum::{
    Router,
    body::Body,
    extract::DefaultBodyLimit,
    http::{Request, header},
    response::IntoResponse,
    routing::{get, post},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

/// How long the head of a request is awaited.
const HEAD: Duration = Duration::from_secs(10);

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    #[serde(deserialize_with = "unit::address")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 9090).into() }
    }
}

/// Serves until `stop`; `draining` shows in readiness.
pub async fn run(
    listener: TcpListener,
    services: Services,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let router = router(Arc::new(Api { services, draining }));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tasks.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                router.clone().call(request.map(Body::new))
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(tcp), service);
            tokio::select! {
                _ = served => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

fn router(api: Arc<Api>) -> Router {
    let list = messages::MOST * (api.services.config.message + messages::FIELDS);
    Router::new()
        .route("/v1/publish", post(messages::publish))
        .route("/v1/broadcast", post(messages::broadcast))
        .route("/v1/rooms", get(rooms::list))
        .route("/v1/rooms/{room}", get(rooms::show))
        .route("/v1/rooms/{room}/history", get(rooms::history))
        .route("/v1/rooms/{room}/messages/{offset}/receipt", get(rooms::receipt))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/{id}", get(connections::show).delete(connections::end))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{name}", get(plugins::show).put(plugins::put))
        .route("/v1/plugins/{name}/rollback", post(plugins::rollback))
        .route("/v1/plugins/{name}/shadow", get(plugins::shadow).put(plugins::shade).delete(plugins::unshade))
        .route("/v1/plugins/{name}/shadow/promote", post(plugins::promote))
        .route("/metrics", get(metrics::show))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi))
        .fallback(async || http::refuse(&api::not_found("nothing is here; /openapi.json lists what is")))
        .method_not_allowed_fallback(async || http::refuse(&api::wrong_method()))
        .layer(DefaultBodyLimit::max(list))
        .with_state(api)
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}
