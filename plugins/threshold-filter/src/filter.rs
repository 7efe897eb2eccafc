//! What a subscriber asks for.

use crate::event::Event;
use serde::{Deserialize, Serialize};
use switchyard_sdk::{Decimal, Plan};

/// Every field that is there must hold (and), one entry of a list is enough (or).
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// The least change, up or down; 0 or more, in the unit of the events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_change: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_value: Option<Decimal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chains: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<String>>,
}

/// The most entries of a list.
const LONGEST: usize = 256;

impl Filter {
    /// Lists in lower case, sorted and without repetition.
    pub(crate) fn normalized(mut self) -> Result<Self, String> {
        if let Some(change) = self.min_change.as_ref().filter(|change| change.is_negative()) {
            return Err(format!(
                "minChange is {change}, but is compared with the size of a change: 0 or more"
            ));
        }
        for (name, list) in [("chains", &mut self.chains), ("protocols", &mut self.protocols)] {
            let Some(list) = list else { continue };
            if list.len() > LONGEST {
                return Err(format!("{name} has {} entries: {LONGEST} are the most", list.len()));
            }
            for entry in list.iter_mut() {
                entry.make_ascii_lowercase();
            }
            list.sort_unstable();
            list.dedup();
        }
        Ok(self)
    }

    /// No field asks for everything; a list without entries asks for nothing.
    pub(crate) fn plan(&self) -> Plan {
        if *self == Self::default() {
            Plan::All
        } else if [&self.chains, &self.protocols].into_iter().flatten().any(Vec::is_empty) {
            Plan::None
        } else {
            Plan::Ask
        }
    }

    /// An event without a field that is asked for does not pass.
    pub(crate) fn passes(&self, event: &Event) -> bool {
        let least = |asked: &Option<Decimal>, found: &Option<Decimal>| {
            asked.as_ref().is_none_or(|least| found.as_ref().is_some_and(|found| found >= least))
        };
        let among = |asked: &Option<Vec<String>>, found: &Option<String>| {
            asked
                .as_ref()
                .is_none_or(|list| found.as_ref().is_some_and(|found| list.binary_search(found).is_ok()))
        };
        least(&self.min_change, &event.change)
            && least(&self.min_value, &event.value)
            && among(&self.chains, &event.chain)
            && among(&self.protocols, &event.protocol)
    }
}
