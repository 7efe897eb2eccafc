//! What the calls share: who is calling, how many entries, how answers look.

use super::{
    Status,
    callers::{Call, Callers},
};
use crate::{http, key::Key, limits::Limits, session::Services};
use axum::{
    Json,
    extract::{
        FromRequestParts,
        rejection::{PathRejection, QueryRejection},
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use switchyard_process::memory::{MemoryAccount, MemoryShare};
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::key::Scope;
use tokio_util::sync::CancellationToken;

pub(super) struct Api {
    pub services: Services,
    pub limits: Arc<Limits>,
    /// Bodies that are held.
    pub bodies: Arc<MemoryAccount>,
    pub callers: Arc<Callers>,
    /// The node was told to stop.
    pub stopping: CancellationToken,
    pub status: Arc<Status>,
}

/// Who calls, for as long as the call is under way.
pub(super) struct Caller {
    key: Arc<Key>,
    pub share: Arc<MemoryShare>,
    _call: Call,
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        let Some(key) = http::presented(&parts.headers)? else {
            return Err(
                Refusal::new(ErrorCode::AuthRequired, "a key is needed: Authorization: Bearer KEY").into()
            );
        };
        let key = api.services.keys.load().check(key)?;
        let call = api.callers.begin(&key.principal)?;
        let share = api.services.hub.memory.share(&key.principal);
        Ok(Self { key, share, _call: call })
    }
}

impl Caller {
    /// The caller's key, which must have the scope; `what` completes "may not …".
    pub(super) fn with(&self, scope: Scope, what: &str) -> Result<&Key, Refusal> {
        self.key.require(scope, what)?;
        Ok(&self.key)
    }
}

/// A refusal on its way to becoming a response.
pub(super) struct Failure(Refusal);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// What axum's extractors refuse is told as everything else is.
macro_rules! refused_by {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for Failure {
            fn from(rejection: $rejection) -> Self {
                Self(Refusal::invalid(rejection.body_text()))
            }
        }
    )*};
}

refused_by!(QueryRejection, PathRejection);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        http::refuse(&self.0)
    }
}

pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// `?after=CURSOR&limit=N`
#[derive(Deserialize)]
pub(super) struct Paging {
    #[serde(default)]
    pub after: String,
    limit: Option<usize>,
}

/// Entries of a page without `limit`, and the most with it.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

impl Paging {
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        match self.limit.unwrap_or(PAGE) {
            limit @ 1..=LARGEST_PAGE => Ok(limit),
            limit => Err(Refusal::invalid(format!("limit is {limit}, but would be 1 to {LARGEST_PAGE}"))),
        }
    }
}

/// The cursor of the next page, when this one is full.
pub(super) fn next<T>(page: &[T], limit: usize, cursor: impl Fn(&T) -> String) -> Option<String> {
    page.last().filter(|_| page.len() == limit).map(cursor)
}

pub(super) fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::NotFound, message)
}

pub(super) fn wrong_method() -> Refusal {
    Refusal::new(ErrorCode::MethodNotAllowed, "this path takes other methods; /openapi.json lists them")
}

/// JSON text that was made by hand.
pub(super) fn raw(text: String) -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("answers are plain data")
}

/// All calls, for machines.
pub(super) fn openapi() -> Response {
    raw(include_str!("openapi.json").to_owned())
}
