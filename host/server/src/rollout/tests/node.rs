//! A node without sockets: a hub and its rollout, with one plugin whose versions come from a registry that
//! nodes share.

use super::{
    super::{Deployment, PluginSlot, Rollout, RolloutConfig},
    registry::{TestRegistry, memory_store},
};
use crate::{
    audit::Actor,
    hub::{Hub, HubConfig, Proposal, Publisher, Ungoverned},
    metrics::Metrics,
};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Instant};
use switchyard_plugin::{Compiler, ConnectRequest, PluginConfig, Principal, Via};
use switchyard_process::memory::MemoryAccount;
use switchyard_protocol::{
    Refusal,
    request::Publish,
    room::{RoomName, RoomPattern},
};
use switchyard_store::{ActivationSource, PluginRegistry, Store, StoredPlugins};

/// Somebody who calls the HTTP API.
pub(super) fn by(principal: &str) -> Actor {
    Actor::Caller { key: principal.into(), principal: principal.into(), from: None }
}

/// The plugin's name in the configuration.
pub(super) const NAME: &str = "p";

pub(super) struct TestNode {
    pub rollout: Arc<Rollout>,
    registry: Arc<TestRegistry>,
    /// The folder of the plugin's file.
    folder: tempfile::TempDir,
}

impl TestNode {
    /// A node that has not loaded its plugin yet. Without `file`, the configured one is missing.
    pub(super) async fn new(registry: &Arc<TestRegistry>, file: Option<Bytes>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.wasm");
        if let Some(code) = file {
            std::fs::write(&path, code).unwrap();
        }
        let config = config(path);
        let hub = HubConfig {
            ungoverned: Ungoverned::Open,
            message_bytes: 1 << 16,
            cores: 2,
            memory: MemoryAccount::unlimited(),
            vitals: Default::default(),
            policies: Default::default(),
            audit: Default::default(),
        };
        let plugins = registry.clone();
        let store = async |_| Ok::<_, Infallible>(Store { plugins, ..memory_store() });
        let hub = Hub::start(hub, Metrics::default(), store).await.unwrap();
        let config = RolloutConfig {
            plugins: vec![config],
            trust: Default::default(),
            parse_settings: |_, _, _, _| Err("no plugin of the store in this test".to_owned()),
            ungoverned: Ungoverned::Open,
            cache: None,
            compiler: Compiler::InProcess,
            host: "host:1".into(),
        };
        let rollout = Rollout::new(hub, config);
        Self { rollout, registry: registry.clone(), folder }
    }

    pub(super) async fn started(registry: &Arc<TestRegistry>, file: Option<Bytes>) -> Self {
        let node = Self::new(registry, file).await;
        node.rollout.start(|_| ()).await;
        node
    }

    pub(super) fn slot(&self) -> Arc<PluginSlot> {
        self.rollout.slot(NAME).unwrap()
    }

    pub(super) fn config(&self) -> PluginConfig {
        config(self.folder.path().join("p.wasm"))
    }

    pub(super) async fn load(&self, code: Bytes) -> Result<(), Refusal> {
        let by = by("acme");
        let deployment = Deployment { code, signature: None, source: ActivationSource::Load, by };
        self.rollout.load(NAME, deployment).await.map(drop)
    }

    /// Follows what the registry says now.
    pub(super) async fn follow(&self) -> Result<(), Refusal> {
        let read_at = Instant::now();
        let stored = self.registry.read(None).await.unwrap().expect("unknown so far");
        self.follow_read(&stored, read_at).await
    }

    /// Follows what the registry has said.
    pub(super) async fn follow_read(&self, stored: &StoredPlugins, read_at: Instant) -> Result<(), Refusal> {
        self.rollout.follow(&self.slot(), stored, read_at, false).await
    }

    pub(super) async fn connect(&self, who: &str) -> Result<Option<u32>, Refusal> {
        let principal = Principal::new(who, "0123456789abcdef", "default");
        let request = ConnectRequest::new(principal, "127.0.0.1:1");
        let limits = self.rollout.hub.authorize_connect(request).await;
        limits.map(|limits| limits.rooms)
    }

    /// The number of rooms to which the active version limits connections.
    pub(super) async fn limit(&self) -> Option<u32> {
        self.connect("acme").await.unwrap()
    }

    pub(super) async fn publish(&self) -> Result<(), Refusal> {
        let share = self.rollout.hub.memory.share(&"acme".into());
        let key = crate::key::Key::detached("acme");
        let publisher =
            Publisher { keys: crate::key::Keys::detached("acme"), share: &share, key, via: Via::WebSocket };
        let room = RoomName::parse("p:a").unwrap();
        let data = RawValue::from_string("1".to_owned()).unwrap();
        let message = Publish { room: "p:a".into(), event: None, data: &data, key: None };
        let proposal = Proposal { room, message, bytes: 1 };
        self.rollout.hub.publish(publisher, proposal).await.map(drop)
    }

    /// The states of the versions as operators see them, with how each came.
    pub(super) fn versions(&self) -> Vec<(String, String, serde_json::Value)> {
        let view = serde_json::to_value(self.slot().view()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let version = |v: &serde_json::Value| (text(&v["sha256"]), text(&v["state"]), v["how"].clone());
        view["versions"].as_array().unwrap().iter().map(version).collect()
    }
}

fn config(file: PathBuf) -> PluginConfig {
    let rooms = vec![RoomPattern::try_from("p:*".to_owned()).unwrap()];
    PluginConfig::for_file(NAME.to_owned(), file, rooms)
}
