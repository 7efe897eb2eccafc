//! An entry of the registry of bans and revocations, as text. Does not know what it is about: that is its name.

use super::Period;
use std::fmt;

/// An entry. Each change of it has a greater version than those before. One that was lifted has no period, and is
/// kept until every node has forgotten the period that it had before.
///
/// Written as `VERSION FORGOTTEN_AT`, and then, unless it was lifted, `SINCE UNTIL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DenialEntry {
    /// Unix milliseconds, or more.
    pub version: u64,
    /// When the last of all the periods that it ever had ends, in Unix milliseconds. From then on, no node writes an
    /// older state of it again.
    pub forgotten_at: u64,
    pub period: Option<Period>,
}

impl DenialEntry {
    /// `None`: a later version of Switchyard may have written it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let (version, forgotten_at, period) = match numbers[..] {
            [version, forgotten_at] => (version, forgotten_at, None),
            [version, forgotten_at, since, until] => (version, forgotten_at, Some(Period { since, until })),
            _ => return None,
        };
        Some(Self { version, forgotten_at, period })
    }

    pub(crate) fn is_in_force(&self, now: u64) -> bool {
        self.period.is_some_and(|period| now < period.until)
    }
}

impl fmt::Display for DenialEntry {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.version, self.forgotten_at)?;
        self.period.map_or(Ok(()), |Period { since, until }| write!(f, " {since} {until}"))
    }
}
