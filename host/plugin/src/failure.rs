//! A failed call: what went wrong in the guest, with all that its author needs to find the cause.

use super::backtrace;
use super::hook_types::clip;
use super::imports::MemoryLimitExceeded;
use serde::Serialize;
use std::fmt;
use wasmtime::{Error, PoolConcurrencyLimitError, Trap};

/// Maximum length, in bytes, of text from the guest in a failure.
const MAX_GUEST_TEXT_BYTES: usize = 2048;

/// Maximum number of bytes that the guest may pass to the host in one call: more than any message or list of
/// answers.
pub(super) const MAX_TRANSFER_BYTES: usize = 4 << 20;

/// A function that a plugin exports under the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginFunction {
    /// `lifecycle.describe`
    Describe,
    /// `lifecycle.init`
    Init,
    /// `connect.authorize`
    Connect,
    /// `room.validate`
    Room,
    /// `subscribe.authorize`
    Subscribe,
    /// `publish.check`
    Publish,
    /// `deliver.compile`
    Compile,
    /// `deliver.release`
    Release,
    /// `deliver.matches`
    Matches,
}

impl PluginFunction {
    /// All functions, in the order of their discriminants.
    pub const ALL: [PluginFunction; 9] = [
        PluginFunction::Describe,
        PluginFunction::Init,
        PluginFunction::Connect,
        PluginFunction::Room,
        PluginFunction::Subscribe,
        PluginFunction::Publish,
        PluginFunction::Compile,
        PluginFunction::Release,
        PluginFunction::Matches,
    ];

    /// The interface and function of the contract, such as `publish.check`. This is the metric label `hook`.
    pub const fn name(self) -> &'static str {
        match self {
            PluginFunction::Describe => "lifecycle.describe",
            PluginFunction::Init => "lifecycle.init",
            PluginFunction::Connect => "connect.authorize",
            PluginFunction::Room => "room.validate",
            PluginFunction::Subscribe => "subscribe.authorize",
            PluginFunction::Publish => "publish.check",
            PluginFunction::Compile => "deliver.compile",
            PluginFunction::Release => "deliver.release",
            PluginFunction::Matches => "deliver.matches",
        }
    }
}

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// It ran longer than its budget.
    Deadline,
    /// It needed more memory than its budget.
    Memory,
    /// It recursed too deeply.
    Stack,
    /// It aborted after it had logged an error, as a Rust panic does.
    Panic,
    /// It aborted in another way, such as an illegal instruction or memory access.
    Trap,
    /// It returned an answer that the contract does not allow.
    InvalidAnswer,
    /// The host had no room for another instance.
    Host,
}

impl FailureKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [FailureKind; 7] = [
        FailureKind::Deadline,
        FailureKind::Memory,
        FailureKind::Stack,
        FailureKind::Panic,
        FailureKind::Trap,
        FailureKind::InvalidAnswer,
        FailureKind::Host,
    ];

    /// The name as it appears in messages and in the metric label `kind`.
    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Deadline => "deadline",
            FailureKind::Memory => "memory",
            FailureKind::Stack => "stack",
            FailureKind::Panic => "panic",
            FailureKind::Trap => "trap",
            FailureKind::InvalidAnswer => "invalid_answer",
            FailureKind::Host => "host",
        }
    }
}

/// A failed call, for the operator and the plugin's author. Clients never see it: it contains text from the
/// guest, such as the message and location of a panic, and its author decides what is in there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CallFailure {
    /// The plugin's name in the configuration.
    pub plugin: String,
    /// The plugin's version; empty if it has not described itself yet.
    pub version: String,
    /// The function that failed.
    pub function: PluginFunction,
    /// The room that the call was about, if there is one.
    pub room: Option<String>,
    /// How it failed.
    pub kind: FailureKind,
    /// What happened, in the host's words.
    pub detail: String,
    /// The last line that the guest logged as an error during the call. The SDK logs the text of a panic there.
    pub last_error_line: Option<String>,
    /// The guest's functions, innermost first, without those of a panic.
    pub backtrace: Vec<String>,
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin '{}'", self.plugin)?;
        if !self.version.is_empty() {
            write!(f, " {}", self.version)?;
        }
        write!(f, " {}", self.description())
    }
}

impl CallFailure {
    /// Everything but the plugin's name and version.
    pub(super) fn description(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            write!(f, "failed in {}", self.function.name())?;
            if let Some(room) = &self.room {
                write!(f, " for room '{room}'")?;
            }
            write!(f, " ({}): {}", self.kind.name(), self.detail)?;
            if let Some(line) = &self.last_error_line {
                write!(f, "; it logged: {line}")?;
            }
            if !self.backtrace.is_empty() {
                write!(f, "; at {}", self.backtrace.join(" < "))?;
            }
            Ok(())
        })
    }
}

/// What a wasmtime error means: the kind of failure, its description, and the guest's functions.
pub(super) fn classify(
    error: &Error,
    last_error_line: Option<&str>,
    budget: &str,
) -> (FailureKind, String, Vec<String>) {
    let backtrace = backtrace::function_names(error);
    let kind = if error.is::<MemoryLimitExceeded>() {
        FailureKind::Memory
    } else if error.is::<PoolConcurrencyLimitError>() {
        FailureKind::Host
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => FailureKind::Deadline,
            Some(Trap::StackOverflow) => FailureKind::Stack,
            // Rust keeps most of its stack at the bottom of linear memory, where an overflow is an access out
            // of bounds.
            Some(Trap::MemoryOutOfBounds) if backtrace::is_recursive(&backtrace) => FailureKind::Stack,
            Some(Trap::UnreachableCodeReached) if last_error_line.is_some() => FailureKind::Panic,
            Some(_) => FailureKind::Trap,
            None => FailureKind::InvalidAnswer,
        }
    };
    let detail = match kind {
        FailureKind::Deadline => format!("it ran longer than {budget}"),
        FailureKind::Stack => "it overflowed its stack by recursion".into(),
        FailureKind::Panic => "it panicked".into(),
        _ => match error.root_cause().to_string() {
            // Reworded for the plugin's author. Wasmtime has no type for this error.
            detail if detail.contains("fuel allocated for hostcalls") => {
                format!("it passed more than {MAX_TRANSFER_BYTES} bytes to the host in one call")
            }
            detail => clip_guest_text(&detail),
        },
    };
    (kind, detail, backtrace::shorten(backtrace))
}

pub(super) fn clip_guest_text(text: &str) -> String {
    clip(text, MAX_GUEST_TEXT_BYTES)
}
