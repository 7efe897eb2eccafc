//! The ways to misbehave.

use serde::Deserialize;
use std::hint::black_box;
use switchyard_sdk::clock;

/// Larger than any sensible bound on an answer, smaller than the memory a plugin gets.
pub(crate) const HUGE: usize = 6 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Mode {
    /// `loop`: never comes back.
    Loop,
    /// `allocate`: takes memory until there is none.
    Allocate,
    /// `recurse`: calls itself until the stack is used up.
    Recurse,
    /// `panic`: with the text "told to panic".
    Panic,
    /// `flood`: 10,000 log lines of 10 KB, then goes on well.
    Flood,
    /// `count`: counts a million times, then goes on well.
    Count,
    /// `busy-8`: computes for 8 ms, then goes on well.
    Busy(u64),
    /// `nonsense`: an answer that breaks the contract's meaning: a name that is none, invalid JSON, too many words.
    Nonsense,
    /// `other`: a second kind of nonsense where there is one.
    Other,
    /// `huge`: an answer of 6 MiB.
    Huge,
    /// `short`: too few words, or no bytes.
    Short,
    /// `refuse`: says no, in good form.
    Refuse,
    /// `limit`: no misdeed: allows two messages a second of at most 30 bytes, from `connect` and `subscribe`.
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
                None => return Err(format!("no mode '{name}'")),
            },
        })
    }
}

impl Mode {
    /// Does what needs no answer; the others are up to the hook.
    pub(crate) fn perform(self) {
        match self {
            Self::Loop => loop {
                black_box(());
            },
            Self::Allocate => {
                let mut held = Vec::new();
                loop {
                    // Written to, or a lazy host would give pages that cost nothing.
                    held.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            Self::Recurse => {
                black_box(deeper(1));
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

#[allow(unconditional_recursion, reason = "that is the misdeed")]
fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    deeper(depth + 1) + frame[0]
}

pub(crate) fn huge() -> String {
    "h".repeat(HUGE)
}
