//! The shared values of plugins in Redis. What they are for is in `crate::shared_values`.

use crate::{
    RedisStore, RemovedValues, SharedValueStore, Unavailable, ValueChange, ValueExchange, ValuePosition,
    redis::{context::Context, scripts::shared_values},
};

#[async_trait::async_trait]
impl SharedValueStore for RedisStore {
    async fn exchange(
        &self,
        plugin: &str,
        position: &ValuePosition,
        changes: &[ValueChange],
        max_bytes: u64,
    ) -> Result<ValueExchange, Unavailable> {
        let Context { link, names, .. } = self.context();
        shared_values::exchange(link, names, plugin, position, changes, max_bytes).await
    }

    async fn remove(&self, plugin: &str) -> Result<RemovedValues, Unavailable> {
        let Context { link, names, .. } = self.context();
        shared_values::remove(link, names, plugin).await
    }
}
