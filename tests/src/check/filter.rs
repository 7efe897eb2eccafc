//! The filters that clients use, and which messages pass them: the checker's own model of `threshold_filter`.

use serde_json::{Value, json};
use std::fmt;

/// The minimum change that passes, in tenths; `None` passes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter(pub Option<u8>);

impl Filter {
    pub const NONE: Self = Self(None);

    /// The filter as a client sends it.
    pub fn json(self) -> Option<Value> {
        self.0.map(|tenths| json!({"minChange": f64::from(tenths) / 10.0}))
    }

    /// Parses the filter in a server's answer.
    pub fn read(value: &Value) -> Self {
        Self(value["minChange"].as_f64().map(|change| (change * 10.0).round() as u8))
    }

    /// Whether a message with this change, in tenths, passes.
    pub fn passes(self, change: u8) -> bool {
        self.0.is_none_or(|least| change >= least)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(tenths) => write!(f, "minChange 0.{tenths}"),
            None => f.write_str("no filter"),
        }
    }
}
