//! The calls `/v1/principals/{principal}/ban`, `/v1/addresses/{address}/ban`, `/v1/bans` and `/v1/tokens/revoke`. Enforces
//! nothing: the hub does.

use super::{
    api::{Api, ApiError, ApiResult, Caller, PageQuery, next_cursor, not_found},
    body::UnreadBody,
    detached::to_the_end,
};
use crate::{
    audit::{AuditAction, AuditEvent},
    hub::{conflict, unavailable},
    token::MAX_ACCEPTANCE,
};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use switchyard_process::{file::without_bom, unit::parse_duration};
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::{
    denial::{AddressRange, Denial, DenialTarget, DenyError, InvalidTarget},
    key::Scope,
};

/// Maximum size of a body, in bytes.
const MAX_BODY_BYTES: usize = 4096;
/// The shortest time that something can be refused for.
const MIN_DURATION: Duration = Duration::from_secs(1);
/// The longest ban: a year as `humantime` counts it.
const MAX_DURATION: Duration = Duration::from_secs(31_557_600);
/// How long tokens are revoked without `for` on a node without issuers.
const DEFAULT_REVOCATION: Duration = Duration::from_secs(24 * 3600);

/// A ban or revocation.
#[derive(Serialize)]
pub(super) struct BanView {
    /// `principal`, `address`, `token`, or `tokens`: those of a principal.
    kind: &'static str,
    /// The principal, the address or the id of the token.
    name: String,
    /// Unix milliseconds.
    since: u64,
    until: u64,
}

impl BanView {
    fn of(denial: &Denial) -> Self {
        let Denial { target, since, until } = denial;
        Self { kind: target.kind(), name: target.name(), since: *since, until: *until }
    }
}

#[derive(Serialize)]
pub(super) struct BanList {
    bans: Vec<BanView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `{"for":"1h"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BanBody {
    r#for: String,
}

/// `{"principal":"acme","for":"24h"}` or `{"id":"JTI"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationBody {
    principal: Option<String>,
    id: Option<String>,
    r#for: Option<String>,
}

type NamePath = Result<Path<String>, PathRejection>;

impl From<InvalidTarget> for ApiError {
    fn from(error: InvalidTarget) -> Self {
        Refusal::invalid(error.to_string()).into()
    }
}

/// All bans and revocations, in pages.
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller<PageQuery>) -> ApiResult<BanList> {
    caller.require(Scope::Admin, "see bans")?;
    let query = caller.query()?;
    let limit = query.limit()?;
    let after = query.after(DenialTarget::parse)?;
    let mut page = api.services.hub.denials.current().list(unix_ms());
    page.retain(|denial| after.as_ref().is_none_or(|after| denial.target > *after));
    page.truncate(limit);
    let next = next_cursor(&page, limit, |denial| denial.target.to_string());
    Ok(Json(BanList { bans: page.iter().map(BanView::of).collect(), next }))
}

pub(super) async fn ban_principal(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
    body: UnreadBody,
) -> ApiResult<BanView> {
    caller.require(Scope::Admin, "ban principals")?;
    let target = DenialTarget::principal(&name?.0)?;
    let duration = read_duration(&api, &caller, body).await?;
    let banned = to_the_end(async move { ban(&api, &caller, target, duration).await }).await?;
    Ok(Json(BanView::of(&banned)))
}

pub(super) async fn unban_principal(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: NamePath,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin, "unban principals")?;
    let target = DenialTarget::principal(&name?.0)?;
    let lifted = async move { lift(&api, &caller, target, AuditAction::UnbanPrincipal).await };
    Ok(to_the_end(lifted).await?)
}

pub(super) async fn ban_address(
    State(api): State<Arc<Api>>,
    caller: Caller,
    address: NamePath,
    body: UnreadBody,
) -> ApiResult<BanView> {
    caller.require(Scope::Admin, "ban addresses")?;
    let target = DenialTarget::Address(AddressRange::parse(&address?.0)?);
    let duration = read_duration(&api, &caller, body).await?;
    let banned = to_the_end(async move { ban(&api, &caller, target, duration).await }).await?;
    Ok(Json(BanView::of(&banned)))
}

pub(super) async fn unban_address(
    State(api): State<Arc<Api>>,
    caller: Caller,
    address: NamePath,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin, "unban addresses")?;
    let target = DenialTarget::Address(AddressRange::parse(&address?.0)?);
    let lifted = async move { lift(&api, &caller, target, AuditAction::UnbanAddress).await };
    Ok(to_the_end(lifted).await?)
}

/// Revokes one token, or those that a principal has.
pub(super) async fn revoke_tokens(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: UnreadBody,
) -> ApiResult<BanView> {
    caller.require(Scope::Admin, "revoke tokens")?;
    let example = r#"{"principal":"acme"} or {"id":"JTI","for":"24h"}"#;
    let RevocationBody { principal, id, r#for } = read_body(&api, &caller, body, example).await?;
    let target = match (principal, id) {
        (Some(principal), None) => DenialTarget::tokens_of(&principal)?,
        (None, Some(id)) => DenialTarget::token(&id)?,
        _ => {
            let message = format!("expected either principal or id, and not both, such as {example}");
            return Err(Refusal::invalid(message).into());
        }
    };
    let duration = revocation_duration(r#for.as_deref(), api.services.keys.load().longest_acceptance())?;
    let denied = async move { deny(&api, &caller, target, duration, AuditAction::TokenRevoke).await };
    Ok(Json(BanView::of(&to_the_end(denied).await?)))
}

/// Bans a principal or an address, unless that would lock out the caller or everybody behind a proxy.
pub(super) async fn ban<Q>(
    api: &Api,
    caller: &Caller<Q>,
    target: DenialTarget,
    duration: Duration,
) -> Result<Denial, Refusal> {
    let (action, problem) = match &target {
        DenialTarget::Principal(name) => {
            let is_own = caller.principal() == name;
            let problem = format!("'{name}' is the principal of your own key, which could not lift the ban");
            (AuditAction::BanPrincipal, is_own.then_some(problem))
        }
        DenialTarget::Address(range) => {
            let is_trusted = api.limits.trusts_some_of(*range);
            let problem = format!(
                "{range} belongs to a proxy in limits.trusted, and a ban would keep everybody behind it out"
            );
            (AuditAction::BanAddress, is_trusted.then_some(problem))
        }
        DenialTarget::Token(_) | DenialTarget::TokensOf(_) => unreachable!("tokens are revoked"),
    };
    if let Some(problem) = problem {
        let refused = Err(conflict(format!("{problem}; ban somebody else")));
        api.services
            .hub
            .audit
            .record(&AuditEvent::new(caller.actor(), action, target.name()).result(&refused));
        return refused;
    }
    deny(api, caller, target, duration, action).await
}

/// Stores a ban or revocation, and waits until this node enforces it.
async fn deny<Q>(
    api: &Api,
    caller: &Caller<Q>,
    target: DenialTarget,
    duration: Duration,
    action: AuditAction,
) -> Result<Denial, Refusal> {
    let hub = &api.services.hub;
    let since = unix_ms();
    let mut until = since + duration.as_millis() as u64;
    if let (AuditAction::TokenRevoke, Some(before)) = (action, hub.denials.current().of(&target, since)) {
        // Revoking again for a shorter time must not make a token valid earlier. The store makes sure of that; this is
        // for the answer and the audit line.
        until = until.max(before.until);
    }
    let denial = Denial { target, since, until };
    let denied = hub.store.denials.deny(&denial).await.map_err(|error| match error {
        DenyError::Full | DenyError::Ended => conflict(error.to_string()),
        DenyError::Unavailable(error) => unavailable(error),
    });
    let event = AuditEvent::new(caller.actor(), action, denial.target.name()).result(&denied);
    let event =
        if action == AuditAction::TokenRevoke { event.detail("kind", denial.target.kind()) } else { event };
    hub.audit.record(&event.detail("until", until));
    denied?;
    hub.denials.refresh().await;
    Ok(denial)
}

async fn lift(
    api: &Api,
    caller: &Caller,
    target: DenialTarget,
    action: AuditAction,
) -> Result<StatusCode, Refusal> {
    let hub = &api.services.hub;
    // Another node may have banned the caller just now.
    hub.denials.refresh().await;
    caller.current_key(api)?;
    let lifted =
        hub.store.denials.lift(&target).await.map_err(unavailable).and_then(|was_there| match was_there {
            true => Ok(StatusCode::NO_CONTENT),
            false => {
                Err(not_found(format!("{} '{}' is not banned; see /v1/bans", target.kind(), target.name())))
            }
        });
    hub.audit.record(&AuditEvent::new(caller.actor(), action, target.name()).result(&lifted));
    if lifted.is_ok() {
        hub.denials.refresh().await;
    }
    lifted
}

async fn read_duration(api: &Api, caller: &Caller, body: UnreadBody) -> Result<Duration, ApiError> {
    let BanBody { r#for } = read_body(api, caller, body, r#"{"for":"1h"}"#).await?;
    Ok(parse_ban_duration("for", &r#for)?)
}

async fn read_body<T: DeserializeOwned>(
    api: &Api,
    caller: &Caller,
    body: UnreadBody,
    example: &str,
) -> Result<T, ApiError> {
    let body = body.read(api, caller, MAX_BODY_BYTES).await?;
    serde_json::from_slice(without_bom(&body)).map_err(|error| {
        Refusal::invalid(format!("the body is not a JSON object such as {example}: {error}")).into()
    })
}

/// Parses for how long something is refused. `name` is the field or parameter.
pub(super) fn parse_ban_duration(name: &str, text: &str) -> Result<Duration, Refusal> {
    let duration = parse_duration(text).map_err(|error| Refusal::invalid(format!("{name}: {error}")))?;
    match (MIN_DURATION..=MAX_DURATION).contains(&duration) {
        true => Ok(duration),
        false => {
            let message = format!("{name} must be between 1s and 1year, got '{}'", text.escape_debug());
            Err(Refusal::invalid(message))
        }
    }
}

/// For how long tokens are revoked: if nothing else is asked for, as long as a token may be accepted. A shorter time is
/// refused, because the tokens would be valid again after it.
fn revocation_duration(text: Option<&str>, acceptance: Option<Duration>) -> Result<Duration, Refusal> {
    let Some(text) = text else { return Ok(acceptance.unwrap_or(DEFAULT_REVOCATION)) };
    let duration = parse_duration(text).map_err(|error| Refusal::invalid(format!("for: {error}")))?;
    let (min, max) = (acceptance.unwrap_or(MIN_DURATION), MAX_ACCEPTANCE);
    match (min..=max).contains(&duration) {
        true => Ok(duration),
        false => {
            let [min, max] = [min, max].map(humantime::format_duration);
            let message = format!(
                "for must be between {min}, which is how long tokens of the configured issuers may be accepted, and {max}, \
                 got '{}'; leave it out for the former",
                text.escape_debug()
            );
            Err(Refusal::invalid(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_lasts_as_long_as_any_token() {
        let duration = |text: Option<&str>, acceptance| {
            revocation_duration(text, acceptance).map_err(|refusal| refusal.message)
        };
        let acceptance = Duration::from_secs(48 * 3600 + 60);
        let issuers = Some(acceptance);
        assert_eq!(duration(None, None), Ok(DEFAULT_REVOCATION));
        assert_eq!(duration(None, issuers), Ok(acceptance));
        assert_eq!(duration(Some("1s"), None), Ok(MIN_DURATION));
        assert_eq!(duration(Some("2days 1m"), issuers), Ok(acceptance));
        assert_eq!(duration(Some("366days 20m"), issuers), Ok(MAX_ACCEPTANCE));
        for text in ["2days", "367days"] {
            let error = duration(Some(text), issuers).unwrap_err();
            assert!(error.starts_with("for must be between 2days 1m, which"), "{error}");
            assert!(error.contains(&format!(" and 1year 18h 20m, got '{text}'; leave it out")), "{error}");
        }
        assert!(duration(Some("soon"), None).unwrap_err().starts_with("for: "));
    }

    #[test]
    fn a_ban_lasts_between_a_second_and_a_year() {
        let parsed = |text: &str| parse_ban_duration("for", text).map_err(|refusal| refusal.message);
        assert_eq!(parsed("1s"), Ok(MIN_DURATION));
        assert_eq!(parsed("1year"), Ok(MAX_DURATION));
        for text in ["0s", "999ms", "366d", "99years"] {
            assert_eq!(parsed(text), Err(format!("for must be between 1s and 1year, got '{text}'")));
        }
        for text in ["", "soon", "10M", "-1h", "200years"] {
            assert!(parsed(text).unwrap_err().starts_with("for: "), "{text}");
        }
    }
}
