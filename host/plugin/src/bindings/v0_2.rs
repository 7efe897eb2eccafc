//! Contract 0.2, the present one.

use super::*;
use crate::hook_types::{RejectionCode, Via};
use crate::metrics::MetricKind;
use crate::state::Withdrawal;
use std::time::Duration;
use tracing::Level;

wasmtime::component::bindgen!({
    path: "../../sdk/wit",
    world: "plugin",
    // Arguments are passed from the host's own slices, without copying them first.
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { "switchyard:plugin/random": trappable },
});

common_types!();

fn principal<'a>(principal: &'a Principal, tags: &'a [(&'a str, &'a str)]) -> types::Principal<'a> {
    types::Principal { id: &principal.id, key_id: &principal.key_id, tier: &principal.tier, tags }
}

impl switchyard::plugin::state::Host for InstanceState {
    fn take(&mut self, key: String, amount: u32, burst: u32, per_minute: u32) -> Result<(), u64> {
        self.state.take(&self.principal_id, &key, Withdrawal { amount, burst, per_minute })
    }

    fn get(&mut self, key: String) -> Option<Vec<u8>> {
        self.state.get(&key)
    }

    fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: u64) -> Result<(), String> {
        self.state.set(&self.principal_id, &key, &value, ttl_ms).map_err(|error| error.to_string())
    }

    fn delete(&mut self, key: String) {
        self.state.delete(&self.principal_id, &key);
    }
}

impl GuestExports for Exports {
    common_functions!();

    fn describe(&self, store: &mut GuestStore) -> Result<Description> {
        let info = self.lifecycle.call_describe(store)?;
        Ok(Description {
            name: info.name,
            version: info.version,
            hooks: info.hooks.into(),
            metrics: info.metrics.into_iter().map(Metric::from).collect(),
            config_schema: info.config_schema,
            filter_schema: info.filter_schema,
        })
    }

    fn connect(&self, store: &mut GuestStore, request: &ConnectRequest) -> Result<Result<Limits, Rejection>> {
        let (tags, headers) = (tags(&request.principal), pairs(&request.headers));
        let asked = connect::Request {
            principal: principal(&request.principal, &tags),
            remote: &request.remote,
            origin: request.origin.as_deref(),
            headers: &headers,
        };
        let answer = exported(&self.connect)?.call_authorize(store, asked)?;
        Ok(answer.map(Limits::from).map_err(Rejection::from))
    }

    fn publish(
        &self,
        store: &mut GuestStore,
        request: &PublishRequest<'_>,
    ) -> Result<Result<Verdict, Rejection>> {
        let PublishRequest { principal: who, room, event, data, via, idempotency_key } = *request;
        let via = match via {
            Via::WebSocket => publish::Via::Websocket,
            Via::Http => publish::Via::Http,
        };
        let (tags, message) = (tags(who), publish::Message { room, event, data, via, idempotency_key });
        let answer = exported(&self.publish)?.call_check(store, principal(who, &tags), message)?;
        Ok(answer.map(Verdict::from).map_err(Rejection::from))
    }
}
