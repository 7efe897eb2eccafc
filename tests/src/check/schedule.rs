//! Draws a schedule from a seed: single steps, and scenes of several steps.

mod scene;

use super::{
    filter::Filter,
    random::Random,
    step::{Act, Action, Kind, Step},
};

pub const NODES: usize = 3;
pub const CLIENTS: usize = 12;
/// The rooms of clients. A plugin governs the fourth and later ones.
pub const ROOMS: [&str; 6] = ["plain-0", "plain-1", "plain-2", "tvl-0", "tvl-1", "tvl-2"];
const FIRST_GOVERNED_ROOM: usize = 3;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub steps: usize,
    /// Nodes are disturbed.
    pub faults: bool,
    /// Redis may lose everything, or one room.
    pub forget: bool,
    /// Redis may be killed and restarted.
    pub restart: bool,
    /// Redis keeps its data when it is killed.
    pub durable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 60, faults: true, forget: false, restart: false, durable: false }
    }
}

impl Options {
    /// Whether Redis may lose something.
    pub fn may_lose_data(&self) -> bool {
        self.forget || (self.restart && !self.durable)
    }
}

#[derive(Clone, Copy, Default)]
struct NodeState {
    dead: bool,
    stopped: bool,
    disconnected: bool,
    has_rules: bool,
}

struct Drawing {
    random: Random,
    nodes: [NodeState; NODES],
    not_reading: [bool; CLIENTS],
    /// Whether nodes may die, or stop for longer than their lease.
    is_deadly: bool,
}

pub fn draw(seed: u64, options: &Options) -> Vec<Step> {
    let mut random = Random::new(seed);
    let is_deadly = random.chance(35);
    let mut drawing = Drawing { random, nodes: Default::default(), not_reading: [false; CLIENTS], is_deadly };
    let mut steps: Vec<Step> = vec![];
    for client in 0..CLIENTS {
        let act = drawing.subscribe(client);
        steps.push(Step { after: drawing.random.between(0, 30), act });
    }
    while steps.len() < options.steps + CLIENTS {
        if !options.faults {
            let (client, node) = (drawing.random.below(CLIENTS), drawing.random.below(NODES));
            let act = drawing.client(client, node);
            steps.push(Step { after: drawing.pause(), act });
            continue;
        }
        if drawing.random.chance(20) {
            steps.extend(drawing.scene());
            continue;
        }
        let client = drawing.random.below(CLIENTS);
        let node = drawing.random.below(NODES);
        let act = match drawing.random.below(100) {
            0..62 => drawing.client(client, node),
            62..92 => drawing.fault(node),
            92..96 => Act::Pause { millis: drawing.random.between(100, 2500) },
            _ => match (options.forget, options.restart) {
                (true, _) if drawing.random.chance(40) => Act::Flush,
                (true, _) => Act::Forget { room: drawing.random.below(ROOMS.len()) },
                (_, true) => Act::Restart,
                _ => drawing.fault(node),
            },
        };
        steps.push(Step { after: drawing.pause(), act });
    }
    steps
}

impl Drawing {
    /// The delay before a step. Some are zero, for races, and some are long enough to recover.
    fn pause(&mut self) -> u64 {
        match self.random.below(10) {
            0..5 => self.random.between(0, 20),
            5..9 => self.random.between(20, 300),
            _ => self.random.between(300, 1500),
        }
    }

    fn subscribe(&mut self, client: usize) -> Act {
        let room = self.random.below(ROOMS.len());
        let filter = self.filter(room);
        Act::Subscribe { client, room, filter, since: self.random.chance(25) }
    }

    fn filter(&mut self, room: usize) -> Filter {
        let filtered = room >= FIRST_GOVERNED_ROOM && self.random.chance(75);
        Filter(filtered.then(|| self.random.pick(&[2, 4, 6, 8])))
    }

    fn client(&mut self, client: usize, node: usize) -> Act {
        match self.random.below(60) {
            0..22 => self.subscribe(client),
            22..32 => Act::Unsubscribe { client, room: self.random.below(ROOMS.len()) },
            32..37 => Act::Ack { client },
            37..46 => {
                let away = match self.random.below(10) {
                    0..5 => self.random.between(0, 60),
                    5..9 => self.random.between(60, 1500),
                    _ => self.random.between(3000, 6000),
                };
                Act::Cut { client, node, away }
            }
            46..52 => Act::Takeover { client, node, with_request: self.random.chance(50) },
            52..55 => Act::Twice { client, nodes: [node, self.random.below(NODES)] },
            55 => Act::End { client },
            56 => Act::Abandon { client, node },
            _ if self.not_reading[client] => {
                self.not_reading[client] = false;
                Act::ResumeReading { client }
            }
            _ => {
                self.not_reading[client] = true;
                Act::StopReading { client }
            }
        }
    }

    /// Ends a disturbance of a node, or begins one.
    fn fault(&mut self, node: usize) -> Act {
        let state = &mut self.nodes[node];
        if state.dead {
            *state = NodeState::default();
            return Act::Start { node };
        }
        if state.stopped {
            state.stopped = false;
            return Act::Continue { node };
        }
        if state.disconnected {
            state.disconnected = false;
            return Act::Restore { node };
        }
        if state.has_rules && self.random.chance(70) {
            state.has_rules = false;
            return Act::Release { node };
        }
        match self.random.below(if self.is_deadly { 22 } else { 19 }) {
            0..9 => {
                state.has_rules = true;
                let kinds = [
                    Kind::Session,
                    Kind::Session,
                    Kind::Members,
                    Kind::Acks,
                    Kind::Subscriptions,
                    Kind::Ticks,
                    Kind::Notices,
                ];
                let kind = self.random.pick(&kinds);
                let actions = [
                    Action::Hold,
                    Action::Delay,
                    Action::HoldAnswer,
                    Action::LoseAnswer,
                    Action::LoseAnswer,
                    Action::Drop,
                    Action::Fail,
                ];
                Act::Rule { node, kind, action: self.random.pick(&actions), times: self.random.between(1, 4) }
            }
            9..12 => Act::CutRedis { node },
            12..14 => {
                state.disconnected = true;
                Act::Refuse { node }
            }
            14..16 => {
                state.disconnected = true;
                Act::Swallow { node }
            }
            16..19 => {
                state.stopped = true;
                Act::Stop { node }
            }
            19 => {
                state.dead = true;
                Act::Term { node }
            }
            _ => {
                state.dead = true;
                Act::Kill { node }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let options = Options::default();
        assert_eq!(draw(7, &options), draw(7, &options));
        assert_ne!(draw(7, &options), draw(8, &options));
        let losses = |step: &Step| matches!(step.act, Act::Flush | Act::Forget { .. } | Act::Restart);
        assert!(!(0..50).flat_map(|seed| draw(seed, &options)).any(|step| losses(&step)));
    }
}
