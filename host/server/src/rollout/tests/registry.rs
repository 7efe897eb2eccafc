//! A registry in memory that several nodes share, and whose calls a test can hold up or let fail.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use switchyard_process::memory::MemoryAccount;
use switchyard_store::{
    HistoryChange, HistoryConfig, IDEMPOTENCY_KEY_TTL, MemoryStore, PluginRegistry, Retention, Revision,
    Store, StoredPlugins, Unavailable, VersionHistory,
};
use tokio::sync::{Barrier, Semaphore};

pub(super) fn memory_store() -> Store {
    let retention = Retention {
        history: HistoryConfig::default().into(),
        session_ttl: IDEMPOTENCY_KEY_TTL,
        idempotency_key_ttl: IDEMPOTENCY_KEY_TTL,
    };
    MemoryStore::new(retention, Arc::new(|_| true), &MemoryAccount::unlimited(), &Default::default()).into()
}

pub(super) struct TestRegistry {
    inner: Mutex<Arc<dyn PluginRegistry>>,
    /// The next changes wait for each other before they are made.
    pub changes_meet: Mutex<Option<Arc<Barrier>>>,
    pub refuses_changes: AtomicBool,
    /// Reading code takes a permit, if there is a gate.
    pub code_gate: Mutex<Option<Arc<Semaphore>>>,
    /// Whether code was asked for.
    pub code_asked: Semaphore,
}

impl TestRegistry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(memory_store().plugins),
            changes_meet: Mutex::default(),
            refuses_changes: AtomicBool::new(false),
            code_gate: Mutex::default(),
            code_asked: Semaphore::new(0),
        })
    }

    /// Forgets everything, as a store does that has lost its data.
    pub(super) fn lose_all(&self) {
        *self.inner.lock().unwrap() = memory_store().plugins;
    }

    /// Makes reading code wait until permits are added.
    pub(super) fn hold_code(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.code_gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    fn inner(&self) -> Arc<dyn PluginRegistry> {
        self.inner.lock().unwrap().clone()
    }
}

#[async_trait]
impl PluginRegistry for TestRegistry {
    async fn read(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable> {
        self.inner().read(known).await
    }

    async fn history(&self, plugin: &str) -> Result<VersionHistory, Unavailable> {
        self.inner().history(plugin).await
    }

    async fn change(&self, plugin: &str, change: HistoryChange<'_>) -> Result<bool, Unavailable> {
        if self.refuses_changes.load(Relaxed) {
            return Err(Unavailable("told to".to_owned()));
        }
        let meet = self.changes_meet.lock().unwrap().clone();
        if let Some(meet) = meet {
            meet.wait().await;
            *self.changes_meet.lock().unwrap() = None;
        }
        self.inner().change(plugin, change).await
    }

    async fn restore(
        &self,
        plugin: &str,
        history: &VersionHistory,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable> {
        self.inner().restore(plugin, history, code).await
    }

    async fn forget(&self, plugin: &str) -> Result<(), Unavailable> {
        self.inner().forget(plugin).await
    }

    async fn code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable> {
        self.code_asked.add_permits(1);
        let gate = self.code_gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("it is never closed").forget();
        }
        self.inner().code(plugin, sha256).await
    }

    async fn report(&self, report: &str) -> Result<(), Unavailable> {
        self.inner().report(report).await
    }

    async fn reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable> {
        self.inner().reports().await
    }
}
