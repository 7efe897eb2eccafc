//! The call `POST /v1/tokens/check`: what this node makes of a user token. Changes nothing.

use super::{
    api::{Api, ApiError, Caller, json_response, to_json},
    body::UnreadBody,
};
use crate::key::{Credential, Key};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use switchyard_protocol::{ErrorCode, Refusal, request::Credentials};
use switchyard_store::{
    grant::RoomGrant,
    key::{Scope, Tags},
};

/// Maximum size of a body, in bytes: a token of the maximum length.
const MAX_BODY_BYTES: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    token: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum CheckedToken<'a> {
    Valid {
        valid: bool,
        issuer: &'a str,
        principal: &'a str,
        tier: &'a str,
        scopes: &'a [Scope],
        /// Each list must allow what the user does in a room. Empty: every ordinary room, and the own inbox.
        rooms: Vec<Vec<&'a RoomGrant>>,
        tags: &'a Tags,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        issued: Option<u64>,
        expires: u64,
    },
    Refused {
        valid: bool,
        error: Refusal,
    },
}

pub(super) async fn check(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: UnreadBody,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin, "check tokens")?;
    let body = body.read(&api, &caller, MAX_BODY_BYTES).await?;
    // The error of the parser could repeat a part of the token.
    let CheckRequest { token } = serde_json::from_slice(&body).map_err(|_| {
        Refusal::invalid("the body must be a JSON object with the string token, and nothing else")
    })?;
    let authenticated = api.services.authenticator().authenticate(&Credentials::Token(token.into())).await;
    Ok(json_response(match &authenticated {
        Ok(key) => to_json(view(key)),
        Err(unknown) if unknown.code == ErrorCode::IssuerUnavailable => return Err(unknown.clone().into()),
        Err(error) => to_json(CheckedToken::Refused { valid: false, error: error.clone() }),
    }))
}

fn view(key: &Key) -> CheckedToken<'_> {
    let Credential::Token(claims) = &key.credential else { unreachable!("a token was presented") };
    CheckedToken::Valid {
        valid: true,
        issuer: &claims.issuer.name,
        principal: &key.principal,
        tier: &key.tier,
        scopes: key.scopes(),
        rooms: key.rooms().iter().map(|grants| grants.iter().collect()).collect(),
        tags: &claims.tags,
        id: claims.id.as_deref(),
        issued: claims.issued,
        expires: claims.expires,
    }
}
