//! The record in Redis of which plugin governs which rooms. What it means is in `crate::governance`.

use crate::{
    Governance, GovernanceRegistry, RedisStore, Unavailable,
    redis::{context::Context, replies, scripts},
};

#[async_trait::async_trait]
impl GovernanceRegistry for RedisStore {
    async fn governance(&self) -> Result<Governance, Unavailable> {
        let Context { link, names, .. } = self.context();
        let record = link.command("GET", vec![names.governance().into()]).await?;
        if record.is_null() {
            return Ok(Governance::default());
        }
        serde_json::from_str(&replies::text(record)?)
            .map_err(|error| Unavailable(format!("cannot read which plugin governs which rooms: {error}")))
    }

    async fn replace_governance(&self, expected: u64, next: &Governance) -> Result<bool, Unavailable> {
        let Context { link, names, .. } = self.context();
        scripts::governance::replace(link, names, expected, next).await
    }
}
