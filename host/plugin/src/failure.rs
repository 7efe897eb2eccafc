//! What went wrong in a guest, with all that its author needs to find it.

use super::answers::clip;
use super::backtrace;
use super::imports::MemoryRefused;
use serde::Serialize;
use std::fmt;
use wasmtime::{Error, PoolConcurrencyLimitError, Trap};

/// Bytes of the guest's own words in a failure.
const MAX_SAID: usize = 2048;

/// Bytes that one call may hand from the guest to the host: more than any message or list of answers.
pub(super) const LIFTED: usize = 4 << 20;

/// A function of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    Describe,
    Init,
    Connect,
    Room,
    Subscribe,
    Publish,
    Compile,
    Release,
    Matches,
}

impl Call {
    pub const ALL: [Call; 9] = [
        Call::Describe,
        Call::Init,
        Call::Connect,
        Call::Room,
        Call::Subscribe,
        Call::Publish,
        Call::Compile,
        Call::Release,
        Call::Matches,
    ];

    /// As the contract names it.
    pub const fn name(self) -> &'static str {
        match self {
            Call::Describe => "lifecycle.describe",
            Call::Init => "lifecycle.init",
            Call::Connect => "connect.authorize",
            Call::Room => "room.validate",
            Call::Subscribe => "subscribe.authorize",
            Call::Publish => "publish.check",
            Call::Compile => "deliver.compile",
            Call::Release => "deliver.release",
            Call::Matches => "deliver.matches",
        }
    }
}

/// The ways in which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Ran longer than its budget.
    Deadline,
    /// Wanted more memory than its budget.
    Memory,
    /// Recursed too deeply.
    Stack,
    /// Stopped itself and said why.
    Panic,
    /// Stopped otherwise: an illegal instruction or access.
    Trap,
    /// Gave an answer that the contract does not allow.
    Nonsense,
    /// The host had no room for another instance.
    Host,
}

impl FailureKind {
    pub const ALL: [FailureKind; 7] = [
        FailureKind::Deadline,
        FailureKind::Memory,
        FailureKind::Stack,
        FailureKind::Panic,
        FailureKind::Trap,
        FailureKind::Nonsense,
        FailureKind::Host,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Deadline => "deadline",
            FailureKind::Memory => "memory",
            FailureKind::Stack => "stack",
            FailureKind::Panic => "panic",
            FailureKind::Trap => "trap",
            FailureKind::Nonsense => "nonsense",
            FailureKind::Host => "host",
        }
    }
}

/// A failed call, for the operator and the author; clients are not shown it. It holds what the guest itself
/// said (a panic's text and place), which is the author's choice of words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    pub plugin: String,
    /// Empty while it has not described itself.
    pub version: String,
    pub call: Call,
    pub room: Option<String>,
    pub kind: FailureKind,
    /// What happened, in the host's words.
    pub detail: String,
    /// What the guest logged last as an error during this call: where the SDK puts a panic's text.
    pub said: Option<String>,
    /// The guest's functions, innermost first, without those of a panic.
    pub backtrace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin '{}'", self.plugin)?;
        if !self.version.is_empty() {
            write!(f, " {}", self.version)?;
        }
        write!(f, " {}", self.story())
    }
}

impl Failure {
    /// All but the plugin's name and version.
    pub(super) fn story(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            write!(f, "failed in {}", self.call.name())?;
            if let Some(room) = &self.room {
                write!(f, " for room '{room}'")?;
            }
            write!(f, " ({}): {}", self.kind.name(), self.detail)?;
            if let Some(said) = &self.said {
                write!(f, "; it said: {said}")?;
            }
            if !self.backtrace.is_empty() {
                write!(f, "; at {}", self.backtrace.join(" < "))?;
            }
            Ok(())
        })
    }
}

/// What an error of wasmtime means: the kind, the words, the guest's functions.
pub(super) fn read(error: &Error, said: Option<&str>, budget: &str) -> (FailureKind, String, Vec<String>) {
    let backtrace = backtrace::read(error);
    let kind = if error.is::<MemoryRefused>() {
        FailureKind::Memory
    } else if error.is::<PoolConcurrencyLimitError>() {
        FailureKind::Host
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => FailureKind::Deadline,
            Some(Trap::StackOverflow) => FailureKind::Stack,
            // Rust keeps most of its stack in linear memory, below everything else: it overflows out of bounds.
            Some(Trap::MemoryOutOfBounds) if backtrace::recurses(&backtrace) => FailureKind::Stack,
            Some(Trap::UnreachableCodeReached) if said.is_some() => FailureKind::Panic,
            Some(_) => FailureKind::Trap,
            None => FailureKind::Nonsense,
        }
    };
    let detail = match kind {
        FailureKind::Deadline => format!("it ran longer than {budget}"),
        FailureKind::Stack => "it recursed deeper than its stack".into(),
        FailureKind::Panic => "it panicked".into(),
        _ => match error.root_cause().to_string() {
            // In the words of the author of a guest; wasmtime has no type for it.
            detail if detail.contains("fuel allocated for hostcalls") => {
                format!("it handed over more than {LIFTED} bytes at once")
            }
            detail => clip(&detail, MAX_SAID),
        },
    };
    (kind, detail, backtrace::shorten(backtrace))
}

pub(super) fn said(text: &str) -> String {
    clip(text, MAX_SAID)
}
