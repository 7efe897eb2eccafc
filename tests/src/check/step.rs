//! The steps of a schedule: what is done to nodes, Redis or clients. Plain data, so that a schedule can be
//! printed, shortened and repeated.

use super::filter::Filter;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Milliseconds since the previous step.
    pub after: u64,
    pub act: Act,
}

/// Kinds of commands, by their purpose.
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
pub enum Action {
    Hold,
    Delay,
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
    StopReading {
        client: usize,
    },
    ResumeReading {
        client: usize,
    },
    /// The connection breaks; the client reconnects to a node after some milliseconds.
    Cut {
        client: usize,
        node: usize,
        away: u64,
    },
    /// The session is resumed while the old connection is open, perhaps with a request in flight.
    Takeover {
        client: usize,
        node: usize,
        with_request: bool,
    },
    /// Two connections resume at the same time.
    Twice {
        client: usize,
        nodes: [usize; 2],
    },
    /// An operator ends the connection and its session.
    End {
        client: usize,
    },
    /// Upgrades with a key are requested and abandoned before they are answered.
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
    /// All connections of a node to Redis break.
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
    /// A rule for a number of commands of one kind.
    Rule {
        node: usize,
        kind: Kind,
        action: Action,
        times: u64,
    },
    /// Ends the rules of a node.
    Release {
        node: usize,
    },
    /// Redis does not answer for some milliseconds.
    Pause {
        millis: u64,
    },
    /// Redis loses everything.
    Flush,
    /// Redis loses one room.
    Forget {
        room: usize,
    },
    /// Redis is killed and restarted.
    Restart,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:>5} ms  {:?}", self.after, self.act)
    }
}
