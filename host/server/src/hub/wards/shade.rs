//! A candidate version in the shadow of the one in charge: on this node's traffic, and without effect.

use super::{
    Casting, Ward,
    change::{Origin, conflict},
};
use crate::hub::{Hub, command::Command, no_thread};
use bytes::Bytes;
use std::sync::Arc;
use switchyard_plugin::{Mirror, Shadow};
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::How;

impl Hub {
    /// Starts a candidate, in the place of another. It ends when another version comes into charge.
    pub(crate) async fn shade(
        &self,
        name: &str,
        code: Bytes,
        signature: Option<String>,
    ) -> Result<&Ward, Refusal> {
        let index = self.index(name)?;
        let ward = &self.wards[index];
        let _loading = ward.loading.lock().await;
        if ward.plugin().is_none() {
            let message = format!("plugin '{name}' has no version in charge to compare with: load one");
            return Err(conflict(message));
        }
        let config = ward.config.load_full();
        let plugin = self.compile(&config, &code, signature.as_deref()).await?;
        let _turn = ward.turn.lock().await;
        let shadow = Shadow::start(plugin).map_err(|error| no_thread("of a candidate", error))?;
        self.reflect(index, Some(shadow.mirror())).await;
        ward.standing().shadow = Some(Casting { shadow, code, signature, since: unix_ms() });
        Ok(ward)
    }

    /// Ends the candidate.
    pub(crate) async fn unshade(&self, name: &str) -> Result<&Ward, Refusal> {
        let index = self.index(name)?;
        let ward = &self.wards[index];
        let _turn = ward.turn.lock().await;
        ward.standing().shadow.take().ok_or_else(|| no_candidate(name))?;
        self.reflect(index, None).await;
        Ok(ward)
    }

    /// Puts the candidate in charge, on all nodes.
    pub(crate) async fn promote(self: &Arc<Self>, name: &str, by: Option<&str>) -> Result<&Ward, Refusal> {
        let index = self.index(name)?;
        let ward = &self.wards[index];
        let _loading = ward.loading.lock().await;
        let candidate =
            ward.standing().shadow.as_ref().map(|casting| (casting.code.clone(), casting.signature.clone()));
        let (code, signature) = candidate.ok_or_else(|| no_candidate(name))?;
        let config = ward.config.load_full();
        let origin = Origin { how: How::Promotion, by: by.map(str::to_owned), signature };
        self.bring(index, &config, code, origin, None).await?;
        Ok(ward)
    }

    async fn reflect(&self, index: usize, mirror: Option<Mirror>) {
        self.lobby.reflect(index, mirror.clone());
        self.shards[index].queue.send(Command::Reflect(mirror)).ok();
    }
}

fn no_candidate(name: &str) -> Refusal {
    conflict(format!("plugin '{name}' has no candidate on this node"))
}
