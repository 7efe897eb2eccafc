//! The record in Redis of which plugin governs which rooms. What it means is in `crate::governance`.

use crate::{
    Governance, GovernanceRegistry, RedisStore, Unavailable,
    redis::{context::Context, replies, scripts},
};

#[async_trait::async_trait]
impl GovernanceRegistry for RedisStore {
    async fn governance(&self, known: Option<u64>) -> Result<Option<Governance>, Unavailable> {
        let Context { link, names, .. } = self.context();
        // The record is read only if it has changed: every node asks twice a second, and it can be large.
        let id = link.command("HGET", vec![names.governance().into(), "id".into()]).await?;
        let id = if id.is_null() { 0 } else { replies::number(&id)? };
        if known == Some(id) {
            return Ok(None);
        }
        let record = link.command("HGET", vec![names.governance().into(), "record".into()]).await?;
        if record.is_null() {
            return Ok(Some(Governance::default()));
        }
        serde_json::from_str(&replies::text(record)?)
            .map(Some)
            .map_err(|error| Unavailable(format!("cannot read which plugin governs which rooms: {error}")))
    }

    async fn replace_governance(
        &self,
        expected: &Governance,
        next: &Governance,
    ) -> Result<bool, Unavailable> {
        let Context { link, names, .. } = self.context();
        scripts::governance::replace(link, names, expected.id, &next.as_written(expected)).await
    }
}
