//! The bindings that wasmtime generates from the contract, and conversions between their types and the host's
//! own.

use super::filters::Plan;
use super::hook_types::{
    ConnectRequest, Counts, Limits, Principal, Rejection, RejectionCode, RoomVerdict, UncompiledGrant,
    Verdict,
};
use std::time::Duration;

wasmtime::component::bindgen!({
    path: "../../sdk/wit",
    world: "plugin",
    // Arguments are passed from the host's own slices, without copying them first.
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { "switchyard:plugin/random": trappable },
});

pub(crate) use exports::switchyard::plugin::{connect, deliver, lifecycle, publish, room, subscribe};
pub(crate) use switchyard::plugin::{clock, log, metrics, random, types};

/// The tags of a principal, borrowed as the contract's types need them.
pub(crate) fn tags(principal: &Principal) -> Vec<(&str, &str)> {
    principal.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

pub(crate) fn principal<'a>(
    principal: &'a Principal,
    tags: &'a [(&'a str, &'a str)],
) -> types::Principal<'a> {
    types::Principal { id: &principal.id, tier: &principal.tier, tags }
}

pub(crate) fn request<'a>(
    request: &'a ConnectRequest,
    tags: &'a [(&'a str, &'a str)],
) -> connect::Request<'a> {
    connect::Request {
        principal: principal(&request.principal, tags),
        remote: &request.remote,
        origin: request.origin.as_deref(),
    }
}

impl From<Counts> for subscribe::Counts {
    fn from(counts: Counts) -> Self {
        let Counts { of_connection, of_principal, in_room } = counts;
        Self { of_connection, of_principal, in_room }
    }
}

impl From<types::Reject> for Rejection {
    fn from(reject: types::Reject) -> Self {
        let code = match reject.code {
            types::Code::Denied => RejectionCode::Denied,
            types::Code::Invalid => RejectionCode::Invalid,
            types::Code::Limit => RejectionCode::Limit,
            types::Code::TooLarge => RejectionCode::TooLarge,
            types::Code::Internal => RejectionCode::Failed,
        };
        Rejection::new(code, reject.reason)
    }
}

impl From<types::Limits> for Limits {
    fn from(limits: types::Limits) -> Self {
        let types::Limits { rooms, publishes_per_second, message_bytes } = limits;
        Self { rooms, publishes_per_second, message_bytes }
    }
}

impl From<room::Verdict> for RoomVerdict {
    fn from(verdict: room::Verdict) -> Self {
        Self { canonical: verdict.canonical, cache: Duration::from_millis(verdict.cache_ms.into()) }
    }
}

impl From<subscribe::Grant> for UncompiledGrant {
    fn from(grant: subscribe::Grant) -> Self {
        Self { filter: grant.filter, limits: grant.limits.map(Limits::from).unwrap_or_default() }
    }
}

impl From<publish::Verdict> for Verdict {
    fn from(verdict: publish::Verdict) -> Self {
        match verdict {
            publish::Verdict::Pass => Self::Pass,
            publish::Verdict::Replace(data) => Self::Replace(data),
            publish::Verdict::Discard => Self::Discard,
        }
    }
}

impl From<deliver::Plan> for Plan {
    fn from(plan: deliver::Plan) -> Self {
        match plan {
            deliver::Plan::All => Self::All,
            deliver::Plan::None => Self::None,
            deliver::Plan::Guest => Self::Guest,
        }
    }
}
