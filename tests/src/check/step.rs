//! One thing that is done to nodes, Redis or clients. Data only, so that a schedule can be printed, cut and run again.

use super::filter::Filter;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Milliseconds since the step before.
    pub after: u64,
    pub act: Act,
}

/// Kinds of commands, by what they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Session,
    Members,
    Acks,
    Subscriptions,
    Ticks,
    Notices,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Hold,
    Detain,
    HoldAnswer,
    LoseAnswer,
    Drop,
    Fail,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Subscribe {
        client: usize,
        room: usize,
        filter: Filter,
        since: bool,
    },
    Unsubscribe {
        client: usize,
        room: usize,
    },
    Ack {
        client: usize,
    },
    /// The client neither reads nor answers pings.
    Deafen {
        client: usize,
    },
    Hear {
        client: usize,
    },
    /// The connection breaks; the client comes back to a node after some milliseconds.
    Cut {
        client: usize,
        node: usize,
        away: u64,
    },
    /// The session is resumed while the old connection lives; a request may be under way on that one.
    Takeover {
        client: usize,
        node: usize,
        asking: bool,
    },
    /// By two connections at once.
    Twice {
        client: usize,
        nodes: [usize; 2],
    },
    /// An operator ends the connection with its session.
    End {
        client: usize,
    },
    /// Upgrades with a key that are given up before they are answered.
    Abandon {
        client: usize,
        node: usize,
    },
    Kill {
        node: usize,
    },
    Term {
        node: usize,
    },
    Start {
        node: usize,
    },
    Stop {
        node: usize,
    },
    Continue {
        node: usize,
    },
    /// All connections of a node to Redis.
    CutRedis {
        node: usize,
    },
    Refuse {
        node: usize,
    },
    Swallow {
        node: usize,
    },
    /// Ends `Refuse` and `Swallow`.
    Restore {
        node: usize,
    },
    /// What happens to one kind of commands, for so many of them.
    Rule {
        node: usize,
        kind: Kind,
        fate: Fate,
        times: u64,
    },
    /// Ends the rules of a node.
    Release {
        node: usize,
    },
    /// Redis answers nobody for some milliseconds.
    Pause {
        millis: u64,
    },
    /// Redis forgets everything.
    Flush,
    /// Redis forgets one room.
    Forget {
        room: usize,
    },
    /// Redis is killed and started again.
    Restart,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:>5} ms  {:?}", self.after, self.act)
    }
}
