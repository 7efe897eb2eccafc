//! The steps that a schedule consists of, and how random schedules are composed. Numbers select among what is
//! there. A step that finds nothing to act on does nothing, so any step can be left out of a schedule.

use super::rng::Rng;
use ModelStep::*;

pub(super) type Nth = u8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ModelStep {
    /// A client connects to a node. If the new connection `replaces` the one it had, that one ends first;
    /// otherwise its node does not notice that the client is gone. The first request may stay unread.
    Connect {
        client: Nth,
        node: Nth,
        replaces: bool,
        unread: bool,
    },
    /// A node reads the first request of a client.
    ReadRequest(Nth),
    Join {
        client: Nth,
        room: Nth,
        filter: Nth,
    },
    Leave {
        client: Nth,
        room: Nth,
    },
    /// A message is published.
    Publish {
        room: Nth,
    },
    /// The client acknowledges all messages.
    Ack {
        client: Nth,
        room: Nth,
    },
    /// The client was told the room's position.
    Advance {
        client: Nth,
        room: Nth,
    },
    /// A client answers a ping.
    Pong {
        client: Nth,
    },
    Disconnect {
        client: Nth,
    },
    /// The client is gone, and its node does not know.
    Vanish {
        client: Nth,
    },
    /// A node notices that a client is gone.
    NoticeGone(Nth),
    /// An operator ends the session.
    EndSession {
        client: Nth,
    },

    /// A command is executed and answered.
    Deliver(Nth),
    /// A command is executed, and its answer is lost.
    LoseAnswer(Nth),
    /// A node gives up on a command, which may be executed later.
    GiveUp(Nth),
    /// A command that was given up is executed.
    DeliverLate(Nth),
    /// All commands are delivered.
    DeliverAll,
    /// So many milliseconds pass, and all commands are delivered.
    Run(u16),
    /// So many milliseconds pass, and only leases are renewed.
    RunLeasesOnly(u16),

    Kill {
        node: Nth,
    },
    Start {
        node: Nth,
    },
    /// A node loses its connection to Redis.
    Isolate {
        node: Nth,
    },
    Heal {
        node: Nth,
    },

    /// A room starts a new epoch.
    NewEpoch {
        room: Nth,
    },
    Flush,
    Save,
    /// Redis goes back to the state that was saved.
    Restore,
    /// The clock of Redis is set, and is wrong by so many seconds from now on.
    SetClock(i16),
}

pub(super) const CLIENTS: usize = 2;
pub(super) const NODES: usize = 3;
pub(super) const ROOMS: [&str; 2] = ["a", "b"];
pub(super) const FILTERS: [Option<&str>; 3] = [None, Some("1"), Some("2")];

/// What Redis itself may do wrong in a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Faults {
    /// It keeps its data, and its clock is right.
    None,
    /// Its clock is set from time to time, which must make no difference.
    ClockSteps,
    /// It may also be emptied or go back to an older state. Then less is promised.
    DataLoss,
}

/// What a schedule may contain, each with a weight.
const CHOICES: [(u64, Choice); 39] = [
    (10, |rng| {
        vec![Connect { client: client(rng), node: node(rng), replaces: rng.one_in(3), unread: rng.one_in(4) }]
    }),
    (2, |rng| vec![ReadRequest(nth(rng))]),
    (4, |rng| vec![change(rng)]),
    (4, |rng| vec![change(rng), DeliverAll]),
    (2, |rng| vec![Publish { room: room(rng) }]),
    (4, |rng| vec![Ack { client: client(rng), room: room(rng) }]),
    (1, |rng| vec![Advance { client: client(rng), room: room(rng) }]),
    (4, |rng| vec![Pong { client: client(rng) }]),
    (2, |rng| vec![Disconnect { client: client(rng) }]),
    (1, |rng| vec![Vanish { client: client(rng) }]),
    (2, |rng| vec![NoticeGone(nth(rng))]),
    (2, |rng| vec![EndSession { client: client(rng) }]),
    (10, |rng| vec![Deliver(nth(rng))]),
    (4, |rng| vec![LoseAnswer(nth(rng))]),
    (4, |rng| vec![GiveUp(nth(rng))]),
    (6, |rng| vec![DeliverLate(nth(rng))]),
    (10, |_| vec![DeliverAll]),
    (4, |rng| vec![Run([1, 60, 150, 300, 1100, 2500][rng.below(6) as usize])]),
    (2, |rng| vec![Run([12_000, 23_000][rng.below(2) as usize])]),
    (6, |rng| vec![RunLeasesOnly([1, 60, 150, 300, 700, 1501][rng.below(6) as usize])]),
    (2, |rng| vec![RunLeasesOnly([2001, 2500][rng.below(2) as usize])]),
    (2, |rng| vec![RunLeasesOnly([12_000, 31_000][rng.below(2) as usize])]),
    (1, |rng| vec![Kill { node: node(rng) }]),
    (2, |rng| vec![Start { node: node(rng) }]),
    (2, |rng| vec![Isolate { node: node(rng) }]),
    (3, |rng| vec![Heal { node: node(rng) }]),
    (1, |rng| vec![NewEpoch { room: room(rng) }]),
    // Combinations that are rare by chance: the write of a member, record, claim or acknowledgement that is
    // late.
    (2, |rng| vec![change(rng), Deliver(0), GiveUp(0), DeliverAll]),
    (2, |rng| vec![change(rng), GiveUp(0), DeliverAll]),
    (1, |rng| vec![change(rng), GiveUp(0), GiveUp(0), Run(300)]),
    (1, |rng| {
        vec![
            Disconnect { client: 0 },
            DeliverAll,
            Connect { client: 0, node: node(rng), replaces: true, unread: false },
            Deliver(0),
            GiveUp(0),
        ]
    }),
    (1, |rng| {
        vec![Connect { client: 1, node: node(rng), replaces: true, unread: false }, Deliver(0), GiveUp(0)]
    }),
    (1, |rng| {
        vec![
            Publish { room: 0 },
            Ack { client: 0, room: 0 },
            RunLeasesOnly(150),
            if rng.one_in(2) { GiveUp(0) } else { DeliverAll },
        ]
    }),
    (2, |rng| vec![SetClock(offset(rng))]),
    (2, |rng| vec![SetClock(offset(rng)), Run(2500)]),
    (1, |_| vec![Flush]),
    (2, |_| vec![Save]),
    (2, |_| vec![Save, DeliverAll]),
    (3, |_| vec![Restore]),
];

/// So many choices at the end are only for [`Faults::DataLoss`].
const DATA_LOSS_CHOICES: usize = 4;
const CLOCK_STEP_CHOICES: usize = 2;

type Choice = fn(&mut Rng) -> Vec<ModelStep>;

fn nth(rng: &mut Rng) -> Nth {
    rng.below(4) as Nth
}

/// One client does most of it, so that steps affect each other.
fn client(rng: &mut Rng) -> Nth {
    rng.one_in(6).into()
}

fn room(rng: &mut Rng) -> Nth {
    rng.one_in(3).into()
}

/// How many seconds a clock is wrong.
fn offset(rng: &mut Rng) -> i16 {
    [0, 3600, -600, -3600][rng.below(4) as usize]
}

/// A client joins a room, changes its filter there, or leaves it.
fn change(rng: &mut Rng) -> ModelStep {
    let (client, room) = (client(rng), room(rng));
    match rng.below(4) {
        0..2 => Leave { client, room },
        filter => Join { client, room, filter: filter as Nth - 2 },
    }
}

fn node(rng: &mut Rng) -> Nth {
    rng.below(NODES as u64) as Nth
}

impl ModelStep {
    /// A random schedule. Each has much of some steps and nothing of others, so that in some schedules a few
    /// things meet often.
    pub(super) fn schedule(rng: &mut Rng, faults: Faults) -> Vec<Self> {
        let count = match faults {
            Faults::None => CHOICES.len() - DATA_LOSS_CHOICES - CLOCK_STEP_CHOICES,
            Faults::ClockSteps => CHOICES.len() - DATA_LOSS_CHOICES,
            Faults::DataLoss => CHOICES.len(),
        };
        let weigh =
            |(weight, choice): &(u64, Choice)| (weight * [0, 1, 1, 4][rng.below(4) as usize], *choice);
        let choices: Vec<_> = CHOICES[..count].iter().map(weigh).collect();
        let total = choices.iter().map(|(weight, _)| weight).sum::<u64>().max(1);
        let length = 10 + rng.below(30);
        let random = |_| {
            let mut at = rng.below(total);
            let chosen = choices.iter().find(|(weight, _)| match at.checked_sub(*weight) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            });
            chosen.map_or(vec![DeliverAll], |(_, choice)| choice(rng))
        };
        let begin = [Connect { client: 0, node: 0, replaces: true, unread: false }, DeliverAll];
        begin.into_iter().chain((0..length).flat_map(random)).collect()
    }
}
