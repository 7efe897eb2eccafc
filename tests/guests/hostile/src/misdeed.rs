//! The ways to misbehave. A test requests one by its name.

use serde::Deserialize;
use std::hint::black_box;
use switchyard_sdk::clock;

/// More than any sensible limit on an answer, less than the memory of an instance.
pub(crate) const HUGE_BYTES: usize = 6 << 20;

/// A way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Mode {
    /// `loop`: never returns.
    Loop,
    /// `allocate`: allocates memory until there is none left.
    Allocate,
    /// `recurse`: recurses until the stack overflows.
    Recurse,
    /// `panic`: panics with the message "told to panic".
    Panic,
    /// `flood`: writes 10,000 log lines of 10 KB, then behaves well.
    Flood,
    /// `count`: increments a counter a million times, then behaves well.
    Count,
    /// `busy-8`: computes for 8 ms, then behaves well.
    Busy(u64),
    /// `nonsense`: returns an answer that violates the contract: an invalid name, invalid JSON, too many
    /// words.
    Nonsense,
    /// `other`: returns a second kind of invalid answer, where there is one.
    Other,
    /// `huge`: returns an answer of 6 MiB.
    Huge,
    /// `short`: returns too few words, or no bytes.
    Short,
    /// `refuse`: returns a reject or an error, as the contract allows.
    Refuse,
    /// `limit`: does not misbehave. `connect` and `subscribe` limit the principal to two messages per second
    /// of at most 30 bytes.
    Limit,
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "loop" => Self::Loop,
            "allocate" => Self::Allocate,
            "recurse" => Self::Recurse,
            "panic" => Self::Panic,
            "flood" => Self::Flood,
            "count" => Self::Count,
            "nonsense" => Self::Nonsense,
            "other" => Self::Other,
            "huge" => Self::Huge,
            "short" => Self::Short,
            "refuse" => Self::Refuse,
            "limit" => Self::Limit,
            _ => match name.strip_prefix("busy-").and_then(|ms| ms.parse().ok()) {
                Some(ms) => Self::Busy(ms),
                None => return Err(format!("unknown mode '{name}'")),
            },
        })
    }
}

impl Mode {
    /// Performs the modes that do not depend on the hook. The hook implements the others, which determine its
    /// answer.
    pub(crate) fn perform(self) {
        match self {
            Self::Loop => loop {
                black_box(());
            },
            Self::Allocate => {
                let mut blocks = Vec::new();
                loop {
                    // Written to, because untouched pages may cost the host nothing.
                    blocks.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            Self::Recurse => {
                black_box(recurse(1));
            }
            Self::Panic => panic!("told to panic"),
            Self::Flood => {
                let line = "x".repeat(10_000);
                for _ in 0..10_000 {
                    switchyard_sdk::warn!("{line}");
                }
            }
            Self::Count => {
                for _ in 0..1_000_000 {
                    crate::CALLS.add(1);
                }
            }
            Self::Busy(ms) => {
                let end = clock::unix_ms() + ms;
                while clock::unix_ms() < end {
                    black_box(());
                }
            }
            Self::Nonsense | Self::Other | Self::Huge | Self::Short | Self::Refuse | Self::Limit => {}
        }
    }
}

#[allow(unconditional_recursion, reason = "this is how it misbehaves")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    recurse(depth + 1) + frame[0]
}

/// A text of [`HUGE_BYTES`].
pub(crate) fn huge() -> String {
    "h".repeat(HUGE_BYTES)
}
