//! A subscriber's filter.

use crate::quote::Quote;
use serde::{Deserialize, Serialize};
use switchyard_sdk::{Decimal, Plan};

/// A message must satisfy both fields, and be of any one of the markets.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// Names of markets, in any case; lower case in canonical form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub markets: Option<Vec<String>>,
    /// The minimum size of a trade, or of the largest level of a book; 0 or more, in units of the market.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Decimal>,
}

/// The maximum number of entries in `markets`.
const MAX_MARKETS: usize = 256;

impl Filter {
    /// The canonical form: markets in lower case, sorted and without duplicates.
    ///
    /// # Errors
    /// Which field is invalid, for the client.
    pub(crate) fn normalized(mut self) -> Result<Self, String> {
        if let Some(size) = self.min_size.as_ref().filter(|size| size.is_negative()) {
            return Err(format!("minSize must be 0 or more, got {size}"));
        }
        if let Some(markets) = &mut self.markets {
            if markets.len() > MAX_MARKETS {
                return Err(format!("markets may have at most {MAX_MARKETS} entries, got {}", markets.len()));
            }
            for market in markets.iter_mut() {
                market.make_ascii_lowercase();
            }
            markets.sort_unstable();
            markets.dedup();
        }
        Ok(self)
    }

    /// A filter without fields passes everything, and an empty list passes nothing.
    pub(crate) fn plan(&self) -> Plan {
        match self {
            Self { markets: None, min_size: None } => Plan::All,
            Self { markets: Some(markets), .. } if markets.is_empty() => Plan::None,
            _ => Plan::Ask,
        }
    }

    /// Whether a message passes. A message without a size does not pass a filter with `minSize`.
    pub(crate) fn passes(&self, quote: &Quote) -> bool {
        self.min_size
            .as_ref()
            .is_none_or(|min| quote.largest_size.as_ref().is_some_and(|largest| largest.0 >= *min))
            && self.markets.as_ref().is_none_or(|markets| markets.binary_search(&quote.market).is_ok())
    }
}
