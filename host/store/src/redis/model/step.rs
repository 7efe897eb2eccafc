//! What can happen, as a schedule has it. Numbers choose among what is there; a step that finds nothing to happen to does nothing,
//! so that any step can be left out of a schedule.

use super::dice::Dice;
use Step::*;

pub(super) type Nth = u8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// A client connects to a node: the connection it had ends first, or nobody notices that the client is not there any more.
    /// What it says may wait to be read.
    Open {
        client: Nth,
        node: Nth,
        clean: bool,
        waits: bool,
    },
    /// A node reads what a client that connected says.
    Read(Nth),
    Join {
        client: Nth,
        room: Nth,
        filter: Nth,
    },
    Leave {
        client: Nth,
        room: Nth,
    },
    /// Something is published.
    Publish {
        room: Nth,
    },
    /// All that was published is acknowledged.
    Ack {
        client: Nth,
        room: Nth,
    },
    /// The client was told that the room goes on here.
    Advance {
        client: Nth,
        room: Nth,
    },
    /// A client that was probed answers.
    Pong {
        client: Nth,
    },
    Hang {
        client: Nth,
    },
    /// The client is not there any more; its node does not know.
    Vanish {
        client: Nth,
    },
    /// A node notices that a client is not there any more.
    Notice(Nth),
    /// An operator ends the session.
    End {
        client: Nth,
    },

    /// A command is carried out and answered.
    Deliver(Nth),
    /// It is carried out, the answer is lost.
    Unanswered(Nth),
    /// The node gives up; the command may be carried out later.
    Cut(Nth),
    /// One that was given up is carried out.
    Late(Nth),
    /// Everything that is on its way arrives.
    Flow,
    /// Milliseconds go by, and everything arrives.
    Live(u16),
    /// Milliseconds go by, and only leases are renewed.
    Pass(u16),

    Kill {
        node: Nth,
    },
    Start {
        node: Nth,
    },
    /// Nothing comes through between a node and Redis.
    Isolate {
        node: Nth,
    },
    Heal {
        node: Nth,
    },

    /// A room begins a new epoch.
    Renew {
        room: Nth,
    },
    Flush,
    Save,
    /// Redis goes back to what was saved.
    Restore,
    /// The clock of Redis is set, to be wrong by so many seconds from now on.
    SetClock(i16),
}

pub(super) const CLIENTS: usize = 2;
pub(super) const NODES: usize = 3;
pub(super) const ROOMS: [&str; 2] = ["a", "b"];
pub(super) const FILTERS: [Option<&str>; 3] = [None, Some("1"), Some("2")];

/// What may happen in a schedule beside what always may.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Redis keeps its data and its clock.
    Kept,
    /// Its clock is set now and then, which is to make no difference.
    Stepped,
    /// It may be emptied or go back, too: then less is promised.
    Lost,
}

/// What a schedule may have, and how often.
const CHOICES: [(u64, Choice); 39] = [
    (10, |dice| {
        vec![Open { client: client(dice), node: node(dice), clean: dice.one_in(3), waits: dice.one_in(4) }]
    }),
    (2, |dice| vec![Read(nth(dice))]),
    (4, |dice| vec![change(dice)]),
    (4, |dice| vec![change(dice), Flow]),
    (2, |dice| vec![Publish { room: room(dice) }]),
    (4, |dice| vec![Ack { client: client(dice), room: room(dice) }]),
    (1, |dice| vec![Advance { client: client(dice), room: room(dice) }]),
    (4, |dice| vec![Pong { client: client(dice) }]),
    (2, |dice| vec![Hang { client: client(dice) }]),
    (1, |dice| vec![Vanish { client: client(dice) }]),
    (2, |dice| vec![Notice(nth(dice))]),
    (2, |dice| vec![End { client: client(dice) }]),
    (10, |dice| vec![Deliver(nth(dice))]),
    (4, |dice| vec![Unanswered(nth(dice))]),
    (4, |dice| vec![Cut(nth(dice))]),
    (6, |dice| vec![Late(nth(dice))]),
    (10, |_| vec![Flow]),
    (4, |dice| vec![Live([1, 60, 150, 300, 1100, 2500][dice.below(6) as usize])]),
    (2, |dice| vec![Live([12_000, 23_000][dice.below(2) as usize])]),
    (6, |dice| vec![Pass([1, 60, 150, 300, 700, 1501][dice.below(6) as usize])]),
    (2, |dice| vec![Pass([2001, 2500][dice.below(2) as usize])]),
    (2, |dice| vec![Pass([12_000, 31_000][dice.below(2) as usize])]),
    (1, |dice| vec![Kill { node: node(dice) }]),
    (2, |dice| vec![Start { node: node(dice) }]),
    (2, |dice| vec![Isolate { node: node(dice) }]),
    (3, |dice| vec![Heal { node: node(dice) }]),
    (1, |dice| vec![Renew { room: room(dice) }]),
    // What is seldom put together by chance: a member, a record, a claim, or an acknowledgement that is on its way for long.
    (2, |dice| vec![change(dice), Deliver(0), Cut(0), Flow]),
    (2, |dice| vec![change(dice), Cut(0), Flow]),
    (1, |dice| vec![change(dice), Cut(0), Cut(0), Live(300)]),
    (1, |dice| {
        vec![
            Hang { client: 0 },
            Flow,
            Open { client: 0, node: node(dice), clean: true, waits: false },
            Deliver(0),
            Cut(0),
        ]
    }),
    (1, |dice| vec![Open { client: 1, node: node(dice), clean: true, waits: false }, Deliver(0), Cut(0)]),
    (1, |dice| {
        vec![
            Publish { room: 0 },
            Ack { client: 0, room: 0 },
            Pass(150),
            if dice.one_in(2) { Cut(0) } else { Flow },
        ]
    }),
    (2, |dice| vec![SetClock(offset(dice))]),
    (2, |dice| vec![SetClock(offset(dice)), Live(2500)]),
    (1, |_| vec![Flush]),
    (2, |_| vec![Save]),
    (2, |_| vec![Save, Flow]),
    (3, |_| vec![Restore]),
];

/// The last of them are for [`Kind::Lost`], and those before for [`Kind::Stepped`].
const LOSSES: usize = 4;
const CLOCKS: usize = 2;

type Choice = fn(&mut Dice) -> Vec<Step>;

fn nth(dice: &mut Dice) -> Nth {
    dice.below(4) as Nth
}

/// One client does most of what is done, so that schedules are about something.
fn client(dice: &mut Dice) -> Nth {
    dice.one_in(6).into()
}

fn room(dice: &mut Dice) -> Nth {
    dice.one_in(3).into()
}

/// How wrong a clock is.
fn offset(dice: &mut Dice) -> i16 {
    [0, 3600, -600, -3600][dice.below(4) as usize]
}

/// A room comes, gets another filter, or goes.
fn change(dice: &mut Dice) -> Step {
    let (client, room) = (client(dice), room(dice));
    match dice.below(4) {
        0..2 => Leave { client, room },
        filter => Join { client, room, filter: filter as Nth - 2 },
    }
}

fn node(dice: &mut Dice) -> Nth {
    dice.below(NODES as u64) as Nth
}

impl Step {
    /// Each schedule has much of some things and nothing of others, so that some are about few things that meet often.
    pub(super) fn schedule(dice: &mut Dice, kind: Kind) -> Vec<Self> {
        let count = match kind {
            Kind::Kept => CHOICES.len() - LOSSES - CLOCKS,
            Kind::Stepped => CHOICES.len() - LOSSES,
            Kind::Lost => CHOICES.len(),
        };
        let weigh =
            |(weight, choice): &(u64, Choice)| (weight * [0, 1, 1, 4][dice.below(4) as usize], *choice);
        let choices: Vec<_> = CHOICES[..count].iter().map(weigh).collect();
        let total = choices.iter().map(|(weight, _)| weight).sum::<u64>().max(1);
        let length = 10 + dice.below(30);
        let random = |_| {
            let mut at = dice.below(total);
            let chosen = choices.iter().find(|(weight, _)| match at.checked_sub(*weight) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            });
            chosen.map_or(vec![Flow], |(_, choice)| choice(dice))
        };
        let begin = [Open { client: 0, node: 0, clean: true, waits: false }, Flow];
        begin.into_iter().chain((0..length).flat_map(random)).collect()
    }
}
