//! Code of plugins that are to be added: it waits on this node until its slot is made. Bounded in number, bytes and
//! time. Compiles nothing.

use super::Rollout;
use crate::hub::conflict;
use bytes::Bytes;
use serde::Serialize;
use std::{collections::HashMap, sync::Mutex, time::Duration};
use switchyard_plugin::{check_file, digest};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{ErrorCode, Refusal, room::is_valid_word};
use tokio::time::Instant;

/// How long code waits for the slot that uses it.
const STAGED_TTL: Duration = Duration::from_secs(3600);
/// Maximum number of plugins whose code waits on this node, and of its bytes in all.
const MAX_STAGED: usize = 16;
const MAX_STAGED_BYTES: usize = 64 << 20;

/// Code of plugins that no slot uses yet.
#[derive(Default)]
pub(super) struct StagedVersions(Mutex<HashMap<String, StagedVersion>>);

#[derive(Clone)]
pub(super) struct StagedVersion {
    pub code: Bytes,
    pub signature: Option<String>,
    until: Instant,
}

/// Code that waits on this node for the slot of its plugin.
#[derive(Serialize)]
pub(crate) struct StagedCode {
    name: String,
    state: &'static str,
    sha256: String,
    expires_in_ms: u64,
}

impl StagedVersions {
    fn stage(&self, name: &str, version: StagedVersion) -> Result<(), Refusal> {
        let mut staged = self.0.locked();
        let now = Instant::now();
        staged.retain(|staged, version| staged != name && now < version.until);
        let bytes: usize = staged.values().map(|version| version.code.len()).sum();
        if staged.len() >= MAX_STAGED || bytes + version.code.len() > MAX_STAGED_BYTES {
            let message = format!(
                "{} plugins with {bytes} bytes are staged on this node already, and at most {MAX_STAGED} with \
                 {MAX_STAGED_BYTES} bytes may be; add them, or wait until their hour is over",
                staged.len()
            );
            return Err(Refusal::retry(ErrorCode::Overloaded, message, STAGED_TTL.as_millis() as u64));
        }
        staged.insert(name.to_owned(), version);
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<StagedVersion> {
        self.0.locked().get(name).filter(|version| Instant::now() < version.until).cloned()
    }

    /// Forgets a version, unless another one was staged meanwhile.
    pub(super) fn forget(&self, name: &str, code: &Bytes) {
        self.0.locked().retain(|staged, version| staged != name || version.code != code);
    }

    pub(super) fn expire(&self) {
        self.0.locked().retain(|_, version| Instant::now() < version.until);
    }
}

impl Rollout {
    /// The code that waits for the slot of a plugin.
    pub(super) fn staged_code(&self, name: &str) -> Result<StagedVersion, Refusal> {
        let none =
            || conflict(format!("plugin '{name}' has no code: send it with PUT /v1/plugins/{name} first"));
        self.staged.get(name).ok_or_else(none)
    }

    /// Forgets the code that waits for the slot of a plugin. Returns whether there was some.
    pub(crate) fn unstage(&self, name: &str) -> bool {
        let staged = self.staged.get(name);
        staged.inspect(|version| self.staged.forget(name, &version.code)).is_some()
    }

    /// Keeps the code of a plugin that is to be added, for an hour, on this node. It governs nothing.
    pub(crate) fn stage(
        &self,
        name: &str,
        code: Bytes,
        signature: Option<String>,
    ) -> Result<StagedCode, Refusal> {
        self.require_shared_store()?;
        if !is_valid_word(name) {
            let expected = "expected 1 to 64 characters of A-Z a-z 0-9 . _ -";
            return Err(Refusal::invalid(format!("invalid plugin name '{name}'; {expected}")));
        }
        check_file(name, &code).map_err(|error| Refusal::invalid(error.to_string()))?;
        let trust = self.trust.load();
        trust
            .verify(name, &code, signature.as_deref())
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let sha256 = digest(&code);
        self.staged.stage(name, StagedVersion { code, signature, until: Instant::now() + STAGED_TTL })?;
        let expires_in_ms = STAGED_TTL.as_millis() as u64;
        Ok(StagedCode { name: name.to_owned(), state: "staged", sha256, expires_in_ms })
    }
}
