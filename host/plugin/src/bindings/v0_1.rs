//! Contract 0.1, which knows no state, no key ids and no headers, and tells the publish hook only the
//! publisher's id.

use super::*;
use crate::hook_types::RejectionCode;
use crate::metrics::MetricKind;
use std::time::Duration;
use tracing::Level;

wasmtime::component::bindgen!({
    path: "wit/v0.1",
    world: "plugin",
    // Arguments are passed from the host's own slices, without copying them first.
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { "switchyard:plugin/random": trappable },
});

common_types!();

fn principal<'a>(principal: &'a Principal, tags: &'a [(&'a str, &'a str)]) -> types::Principal<'a> {
    types::Principal { id: &principal.id, tier: &principal.tier, tags }
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
            filter_schema: None,
        })
    }

    fn connect(&self, store: &mut GuestStore, request: &ConnectRequest) -> Result<Result<Limits, Rejection>> {
        let tags = tags(&request.principal);
        let asked = connect::Request {
            principal: principal(&request.principal, &tags),
            remote: &request.remote,
            origin: request.origin.as_deref(),
        };
        let answer = exported(&self.connect)?.call_authorize(store, asked)?;
        Ok(answer.map(Limits::from).map_err(Rejection::from))
    }

    fn publish(
        &self,
        store: &mut GuestStore,
        request: &PublishRequest<'_>,
    ) -> Result<Result<Verdict, Rejection>> {
        let PublishRequest { principal, room, event, data, .. } = *request;
        let answer = exported(&self.publish)?.call_check(store, &principal.id, room, event, data)?;
        Ok(answer.map(Verdict::from).map_err(Rejection::from))
    }
}
