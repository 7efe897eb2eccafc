//! What all calls share: their state, the caller, pages of lists, and errors. Contains no calls.

use super::{
    Status,
    call_limiter::{CallLimiter, CallPermit},
    query::{self, NoQuery, QueryParameters},
    reload_requests::ReloadHandle,
};
use crate::{
    audit::Actor,
    http,
    key::Key,
    limits::{Budget, ClientLimits, TierRate},
    rollout::Rollout,
    session::Services,
    token::looks_like_token,
};
use axum::{
    Json,
    extract::{FromRequestParts, rejection::PathRejection},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, sync::Arc};
use switchyard_process::memory::{MemoryAccount, MemoryShare};
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::key::Scope;
use tokio_util::sync::CancellationToken;

/// The state of the HTTP API of a node that is ready.
pub(super) struct Api {
    pub services: Services,
    pub rollout: Arc<Rollout>,
    pub limits: Arc<ClientLimits>,
    /// The memory of request bodies.
    pub bodies: Arc<MemoryAccount>,
    pub calls: Arc<CallLimiter>,
    /// Cancelled when the node was told to stop.
    pub stopping: CancellationToken,
    pub status: Arc<Status>,
    pub reload: ReloadHandle,
}

/// The address that a request came from, in its extensions.
#[derive(Clone, Copy)]
pub(super) struct PeerAddress(pub IpAddr);

/// The authenticated caller of a call in progress, and the call's query parameters.
pub(super) struct Caller<Q = NoQuery> {
    key: Arc<Key>,
    query: Result<Q, Refusal>,
    from: Option<IpAddr>,
    pub share: Arc<MemoryShare>,
    /// What its principal may still use of the rates of its tier.
    pub budget: Arc<Budget>,
    _permit: CallPermit,
}

impl<Q: QueryParameters> FromRequestParts<Arc<Api>> for Caller<Q> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Some(key) = http::presented_key(&parts.headers)? else {
            let message = "a key is required: Authorization: Bearer KEY";
            return Err(Refusal::new(ErrorCode::AuthRequired, message).into());
        };
        if looks_like_token(key) {
            let message = "user tokens are for WebSocket connections; an HTTP call needs an API key";
            return Err(Refusal::new(ErrorCode::InvalidKey, message).into());
        }
        let key = api.services.keys.load().authenticate(key)?;
        api.services.hub.denials.check_principal(&key.principal)?;
        let query = Q::parse(parts);
        let permit = api.calls.begin(&key.principal)?;
        let share = api.services.hub.memory.share(&key.principal);
        let budget = api.services.budgets.of(&key.principal);
        budget.bound_memory(&key, &share);
        // Operators must get through to lift what keeps them out.
        if !key.has_scope(Scope::Admin) {
            budget.take(&key, [(TierRate::Requests, 1)])?;
        }
        let from = parts.extensions.get().map(|PeerAddress(address)| *address);
        Ok(Self { key, query, from, share, budget, _permit: permit })
    }
}

impl<Q> Caller<Q> {
    /// The caller, for the audit log.
    pub(super) fn actor(&self) -> Actor {
        let Key { id, principal, .. } = &*self.key;
        Actor::Caller { key: id.clone(), principal: principal.clone(), from: self.from }
    }

    pub(super) fn principal(&self) -> &Arc<str> {
        &self.key.principal
    }

    /// Whether the caller's key has a scope.
    pub(super) fn has_scope(&self, scope: Scope) -> bool {
        self.key.has_scope(scope)
    }

    /// The caller's key as it is configured now. It may have changed since the call began.
    pub(super) fn current_key(&self, api: &Api) -> Result<Arc<Key>, Refusal> {
        api.services.hub.denials.check_principal(&self.key.principal)?;
        api.services.keys.load().current(&self.key)
    }

    /// The scopes that the caller's key had when the call began.
    pub(super) fn scopes(&self) -> &[Scope] {
        self.key.scopes()
    }

    /// The caller's key, which must have this scope. `action` completes the error message "key 'a' may not
    /// …". Also refuses an invalid query, but whoever may not make the call learns nothing about its query.
    pub(super) fn require(&self, scope: Scope, action: &str) -> Result<&Key, Refusal> {
        self.require_any(&[scope], action)
    }

    /// The same for a key that must have one of these scopes. The error names the first one.
    pub(super) fn require_any(&self, scopes: &[Scope], action: &str) -> Result<&Key, Refusal> {
        let mut missing = None;
        for scope in scopes {
            match self.key.require(*scope, action) {
                Ok(()) => return self.query().map(|_| &*self.key),
                Err(refusal) => missing = missing.or(Some(refusal)),
            }
        }
        Err(missing.expect("a call requires at least one scope"))
    }

    /// The query parameters. Call [`require`](Self::require) first.
    pub(super) fn query(&self) -> Result<&Q, Refusal> {
        self.query.as_ref().map_err(Refusal::clone)
    }
}

/// A refusal that becomes the response to a call.
pub(super) struct ApiError(Refusal);

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self(Refusal::invalid(rejection.body_text()))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        http::refuse(&self.0)
    }
}

pub(super) type ApiResult<T> = Result<Json<T>, ApiError>;

/// `?after=CURSOR&limit=N`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    #[serde(default)]
    pub after: String,
    limit: Option<String>,
}

impl QueryParameters for PageQuery {}

/// Number of entries of a page without `limit`.
const DEFAULT_PAGE_ENTRIES: usize = 100;
/// Maximum of `limit`.
const MAX_PAGE_ENTRIES: usize = 1000;

impl PageQuery {
    /// The last entry of the page before. `None`: this is the first one.
    pub(super) fn after<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Refusal> {
        let invalid = || {
            let after = self.after.escape_debug();
            Refusal::invalid(format!("after must be the `next` of a page, got '{after}'"))
        };
        match self.after.as_str() {
            "" => Ok(None),
            cursor => parse(cursor).map(Some).ok_or_else(invalid),
        }
    }

    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        parse_limit(self.limit.as_deref(), DEFAULT_PAGE_ENTRIES, MAX_PAGE_ENTRIES)
    }
}

/// The limit of a list, between 1 and `max`.
pub(super) fn parse_limit(text: Option<&str>, default: usize, max: usize) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(default) };
    query::parse_number("limit", text, 1..=max as u64).map(|limit| limit as usize)
}

/// The cursor of the next page, if this one is full.
pub(super) fn next_cursor<T>(page: &[T], limit: usize, cursor: impl Fn(&T) -> String) -> Option<String> {
    page.last().filter(|_| page.len() == limit).map(cursor)
}

pub(super) fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::NotFound, message)
}

pub(super) fn method_not_allowed() -> Refusal {
    Refusal::new(ErrorCode::MethodNotAllowed, "this path does not support this method; see /openapi.json")
}

/// A response of JSON text.
pub(super) fn json_response(text: String) -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn to_json(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("answers are plain data")
}

/// The machine-readable description of all calls.
pub(super) fn openapi() -> Response {
    json_response(include_str!("openapi.json").to_owned())
}
