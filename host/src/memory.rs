//! What this node keeps in memory for others, and how much it may: a sum for each kind, which whoever keeps something adds to and takes
//! from. It only counts; whoever would keep more asks whether there is room.

mod machine;

use serde::{Deserialize, Deserializer, de::Error};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// `[memory]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    pub limit: Limit,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// In percent of what the process may have.
    Share(u8),
    Bytes(usize),
}

/// A node that may keep less is of no use.
const LEAST: usize = 1 << 20;

impl Default for Limit {
    fn default() -> Self {
        Self::Share(60)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |why: &str| {
            let right = "a size of at least 1MiB, such as \"2GiB\", or 1% to 100% of the memory there is";
            D::Error::custom(format!("'{text}' {why}; it is {right}"))
        };
        if let Some(share) = text.strip_suffix('%') {
            let share: u8 = share.trim().parse().map_err(|_| wrong("is no share"))?;
            return match share {
                1..=100 => Ok(Self::Share(share)),
                _ => Err(wrong("is no share")),
            };
        }
        let size = text.parse::<bytesize::ByteSize>().map_err(|_| wrong("is no size"))?;
        match usize::try_from(size.as_u64()) {
            Ok(bytes @ LEAST..) => Ok(Self::Bytes(bytes)),
            _ => Err(wrong("is too little")),
        }
    }
}

impl Limit {
    /// In bytes, on this machine and within the limits of the process' cgroup.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(share) => machine::memory() / 100 * usize::from(share),
        }
    }
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages that the memory store holds for rooms.
    History,
    /// Idempotency keys of the memory store.
    Keys,
    /// Connections, and what they and the sessions without one are in.
    Sessions,
    /// Rooms, without what is in them.
    Rooms,
    /// What waits for connections: answers, and messages that no history of this node holds.
    Outboxes,
    /// What was read from a store that is elsewhere, until it is sent.
    Replays,
    /// Messages that wait for a plugin's consent, or to be stored elsewhere.
    Publishes,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::History,
        Kind::Keys,
        Kind::Sessions,
        Kind::Rooms,
        Kind::Outboxes,
        Kind::Replays,
        Kind::Publishes,
    ];

    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::History => "history",
            Kind::Keys => "keys",
            Kind::Sessions => "sessions",
            Kind::Rooms => "rooms",
            Kind::Outboxes => "outboxes",
            Kind::Replays => "replays",
            Kind::Publishes => "publishes",
        }
    }
}

/// From this part of the limit on, in percent, what can be missed is let go,
const TIGHT: usize = 80;
/// until so much is kept.
const RELIEVED: usize = 75;

pub struct Account {
    limit: usize,
    used: [AtomicUsize; Kind::ALL.len()],
}

impl Account {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: Default::default() })
    }

    /// One that is never full.
    pub fn boundless() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn used(&self, kind: Kind) -> usize {
        self.used[kind as usize].load(Ordering::Relaxed)
    }

    pub fn total(&self) -> usize {
        Kind::ALL.into_iter().map(|kind| self.used(kind)).sum()
    }

    /// Nothing more may be kept.
    pub fn is_full(&self) -> bool {
        self.total() >= self.limit
    }

    /// What can be missed is to be let go.
    pub fn is_tight(&self) -> bool {
        self.total() >= self.limit / 100 * TIGHT
    }

    /// How much is to be let go.
    pub fn excess(&self) -> usize {
        self.total().saturating_sub(self.limit / 100 * RELIEVED)
    }

    pub fn add(&self, kind: Kind, bytes: usize) {
        self.used[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// No more than was added.
    pub fn subtract(&self, kind: Kind, bytes: usize) {
        self.used[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The same until what is given is dropped.
    pub fn charge(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        self.add(kind, bytes);
        Charge { account: self.clone(), kind, bytes }
    }
}

/// Bytes that are counted until it is dropped.
pub struct Charge {
    account: Arc<Account>,
    kind: Kind,
    bytes: usize,
}

impl Charge {
    /// So many more.
    pub fn grow(&mut self, bytes: usize) {
        self.account.add(self.kind, bytes);
        self.bytes += bytes;
    }

    pub fn shrink(&mut self, bytes: usize) {
        self.account.subtract(self.kind, bytes);
        self.bytes -= bytes;
    }
}

/// Bytes that come and go all the time, counted in steps, so that a few of them cost nothing.
pub struct Steps(Charge);

const STEP: usize = 16 << 10;

impl Steps {
    pub fn new(account: Arc<Account>, kind: Kind) -> Self {
        Self(Charge { account, kind, bytes: 0 })
    }

    /// There are so many now.
    pub fn set(&mut self, bytes: usize) {
        let (is, before) = (bytes / STEP * STEP, self.0.bytes);
        match is > before {
            true => self.0.grow(is - before),
            false if is < before => self.0.shrink(before - is),
            false => {}
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} B of {}", self.bytes, self.kind.as_str())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.subtract(self.kind, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_share_or_a_size() {
        let read = |text: &str| toml::from_str::<MemoryConfig>(&format!("limit = \"{text}\""));
        for (text, limit) in
            [("1%", Limit::Share(1)), ("100%", Limit::Share(100)), ("2GiB", Limit::Bytes(2 << 30))]
        {
            assert_eq!(read(text).unwrap().limit, limit);
        }
        for (text, why) in [
            ("0%", "is no share"),
            ("101%", "is no share"),
            ("-5%", "is no share"),
            ("6.5%", "is no share"),
            ("%", "is no share"),
            ("much", "is no size"),
            ("", "is no size"),
            ("64KiB", "is too little"),
        ] {
            let error = read(text).unwrap_err().message().to_owned();
            assert!(error.starts_with(&format!("'{text}' {why}; it is a size of")), "{error}");
        }
        assert_eq!(toml::from_str::<MemoryConfig>("").unwrap().limit, Limit::Share(60));
    }

    #[test]
    fn what_is_dropped_is_counted_no_more() {
        let account = Account::new(1000);
        let mut charge = account.charge(Kind::Rooms, 500);
        account.add(Kind::Keys, 300);
        assert!(account.is_tight() && !account.is_full());
        charge.grow(200);
        assert!(account.is_full());
        assert_eq!((account.total(), account.excess()), (1000, 250));
        charge.shrink(100);
        drop(charge);
        let mut steps = Steps::new(account.clone(), Kind::Outboxes);
        for (bytes, counted) in [(STEP - 1, 0), (2 * STEP + 1, 2 * STEP), (STEP, STEP), (3, 0), (STEP, STEP)]
        {
            steps.set(bytes);
            assert_eq!(account.used(Kind::Outboxes), counted);
        }
        drop(steps);
        assert_eq!((account.used(Kind::Rooms), account.total(), account.excess()), (0, 300, 0));
    }
}
