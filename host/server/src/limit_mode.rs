//! Whether limits are enforced or only observed.

use serde::Deserialize;

/// What happens beyond a limit. Those that protect the node itself, such as its open files, are always enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitMode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is counted and permitted.
    Observe,
}

impl LimitMode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}
