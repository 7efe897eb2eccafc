//! What a subscriber asks for.

use crate::quote::Quote;
use serde::{Deserialize, Serialize};
use switchyard_sdk::{Decimal, Plan};

/// Both fields must hold; one of the markets is enough.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub markets: Option<Vec<String>>,
    /// The least size that a level or a trade must have; 0 or more, in units of the market.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Decimal>,
}

/// The most entries of `markets`.
const LONGEST: usize = 256;

impl Filter {
    /// Markets in lower case, sorted and without repetition.
    pub(crate) fn normalized(mut self) -> Result<Self, String> {
        if let Some(size) = self.min_size.as_ref().filter(|size| size.is_negative()) {
            return Err(format!("minSize is {size}, but sizes are 0 or more"));
        }
        if let Some(markets) = &mut self.markets {
            if markets.len() > LONGEST {
                return Err(format!("markets has {} entries: {LONGEST} are the most", markets.len()));
            }
            for market in markets.iter_mut() {
                market.make_ascii_lowercase();
            }
            markets.sort_unstable();
            markets.dedup();
        }
        Ok(self)
    }

    /// No field asks for everything; a list without entries asks for nothing.
    pub(crate) fn plan(&self) -> Plan {
        match self {
            Self { markets: None, min_size: None } => Plan::All,
            Self { markets: Some(markets), .. } if markets.is_empty() => Plan::None,
            _ => Plan::Ask,
        }
    }

    /// A message without a size does not pass where one is asked for.
    pub(crate) fn passes(&self, quote: &Quote) -> bool {
        self.min_size
            .as_ref()
            .is_none_or(|least| quote.largest.as_ref().is_some_and(|largest| largest.0 >= *least))
            && self.markets.as_ref().is_none_or(|markets| markets.binary_search(&quote.market).is_ok())
    }
}
