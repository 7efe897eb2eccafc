//! A subscriber's filter.

use crate::event::Event;
use serde::{Deserialize, Serialize};
use switchyard_sdk::{Decimal, Plan};

/// An event must satisfy every field that is present, and match any one entry of a list.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// The minimum absolute value of the change; 0 or more, in the unit of the events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_change: Option<Decimal>,
    /// The minimum value, in the unit of the events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_value: Option<Decimal>,
    /// Names of chains, in any case; lower case in canonical form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chains: Option<Vec<String>>,
    /// Names of protocols, in any case; lower case in canonical form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<String>>,
}

/// The maximum number of entries in a list.
const MAX_ENTRIES: usize = 256;

impl Filter {
    /// The canonical form: lists in lower case, sorted and without duplicates.
    ///
    /// # Errors
    /// Which field is invalid, for the client.
    pub(crate) fn normalized(mut self) -> Result<Self, String> {
        if let Some(change) = self.min_change.as_ref().filter(|change| change.is_negative()) {
            return Err(format!(
                "minChange must be 0 or more, got {change}; it applies to the absolute value of the change"
            ));
        }
        for (name, list) in [("chains", &mut self.chains), ("protocols", &mut self.protocols)] {
            let Some(list) = list else { continue };
            if list.len() > MAX_ENTRIES {
                return Err(format!("{name} may have at most {MAX_ENTRIES} entries, got {}", list.len()));
            }
            for entry in list.iter_mut() {
                entry.make_ascii_lowercase();
            }
            list.sort_unstable();
            list.dedup();
        }
        Ok(self)
    }

    /// A filter without fields passes everything, and an empty list passes nothing.
    pub(crate) fn plan(&self) -> Plan {
        if *self == Self::default() {
            Plan::All
        } else if [&self.chains, &self.protocols].into_iter().flatten().any(Vec::is_empty) {
            Plan::None
        } else {
            Plan::Ask
        }
    }

    /// Whether an event passes. It does not if it lacks a field that the filter names.
    pub(crate) fn passes(&self, event: &Event) -> bool {
        let at_least = |min: &Option<Decimal>, value: &Option<Decimal>| {
            min.as_ref().is_none_or(|min| value.as_ref().is_some_and(|value| value >= min))
        };
        let one_of = |list: &Option<Vec<String>>, value: &Option<String>| {
            list.as_ref()
                .is_none_or(|list| value.as_ref().is_some_and(|value| list.binary_search(value).is_ok()))
        };
        at_least(&self.min_change, &event.change)
            && at_least(&self.min_value, &event.value)
            && one_of(&self.chains, &event.chain)
            && one_of(&self.protocols, &event.protocol)
    }
}
