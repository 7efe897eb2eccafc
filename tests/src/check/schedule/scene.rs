//! Groups of steps that would rarely occur together by chance.

use super::{Act, Action, CLIENTS, Drawing, Filter, Kind, NODES, ROOMS, Step};

impl Drawing {
    /// Draws a scene on an undisturbed node, or a single step.
    pub(super) fn scene(&mut self) -> Vec<Step> {
        let (client, node) = (self.random.below(CLIENTS), self.random.below(NODES));
        let other = (node + 1 + self.random.below(NODES - 1)) % NODES;
        let state = self.nodes[node];
        if state.dead || state.stopped || state.disconnected || state.has_rules {
            return vec![Step { after: self.pause(), act: self.fault(node) }];
        }
        let acts = match self.random.below(7) {
            _ if self.is_deadly && self.random.chance(10) => self.presumed_dead(node, other),
            0 => self.late_resume(client, node, other),
            1 => self.lost_change(client, node, other),
            2 => self.resumed_node(client, node),
            3 => self.acknowledged_and_gone(client, other),
            4 => self.paused(client, other),
            5 => self.missed_publications(client, node),
            _ => self.lost_takeover_notice(client, node, other),
        };
        acts.into_iter().map(|(after, act)| Step { after, act }).collect()
    }

    fn short(&mut self) -> u64 {
        self.random.between(0, 15)
    }

    fn room(&mut self) -> usize {
        self.random.below(ROOMS.len())
    }

    /// A resume is delayed on one node, and the client continues elsewhere before it is executed.
    fn late_resume(&mut self, client: usize, node: usize, other: usize) -> Vec<(u64, Act)> {
        let action = self.random.pick(&[Action::Hold, Action::Delay, Action::HoldAnswer]);
        let kind = self.random.pick(&[Kind::Session, Kind::Session, Kind::Members]);
        let times = self.random.between(1, 2);
        vec![
            (self.short(), Act::Rule { node, kind, action, times }),
            (self.short(), Act::Cut { client, node, away: 0 }),
            (self.random.between(100, 1800), Act::Cut { client, node: other, away: 0 }),
            (self.random.between(0, 800), Act::Release { node }),
        ]
    }

    /// A change is delayed or lost, and the client moves to another node, or reconnects.
    fn lost_change(&mut self, client: usize, node: usize, other: usize) -> Vec<(u64, Act)> {
        let kind = self.random.pick(&[Kind::Session, Kind::Members]);
        let actions =
            [Action::Hold, Action::Delay, Action::HoldAnswer, Action::LoseAnswer, Action::Drop, Action::Fail];
        let (action, times) = (self.random.pick(&actions), self.random.between(1, 3));
        let mut acts = vec![
            (self.short(), Act::Takeover { client, node, with_request: false }),
            (self.random.between(30, 120), Act::Rule { node, kind, action, times }),
        ];
        let room = self.room();
        for _ in 0..self.random.between(1, 3) {
            let act = match self.random.chance(50) {
                true => Act::Unsubscribe { client, room },
                false => Act::Subscribe { client, room, filter: self.filter(room), since: false },
            };
            acts.push((self.random.between(0, 60), act));
        }
        let back = if self.random.chance(70) { other } else { node };
        acts.push((
            self.random.between(0, 1700),
            Act::Cut { client, node: back, away: self.random.between(0, 50) },
        ));
        acts.push((self.random.between(0, 600), Act::Release { node }));
        acts
    }

    /// Clients connect to a node that was stopped, and is behind.
    fn resumed_node(&mut self, client: usize, node: usize) -> Vec<(u64, Act)> {
        let second = (client + 4) % CLIENTS;
        vec![
            (self.short(), Act::Ack { client }),
            (self.short(), Act::Stop { node }),
            (self.random.between(300, 1500), Act::Ack { client }),
            (self.random.between(0, 1300), Act::Continue { node }),
            (0, Act::Cut { client, node, away: self.random.between(0, 20) }),
            (self.short(), Act::Takeover { client: second, node, with_request: false }),
        ]
    }

    /// A node stops for longer than its lease, and some of its clients move to other nodes meanwhile.
    fn presumed_dead(&mut self, node: usize, other: usize) -> Vec<(u64, Act)> {
        let mut acts = vec![(self.short(), Act::Stop { node })];
        for _ in 0..8 {
            let client = self.random.below(CLIENTS);
            let act = match self.random.chance(60) {
                true => Act::Takeover { client, node: other, with_request: false },
                false => Act::Ack { client },
            };
            acts.push((self.random.between(1300, 1600), act));
        }
        acts.push((self.random.between(0, 400), Act::Continue { node }));
        acts
    }

    fn acknowledged_and_gone(&mut self, client: usize, other: usize) -> Vec<(u64, Act)> {
        let act = match self.random.chance(50) {
            true => Act::Cut { client, node: other, away: 0 },
            false => Act::Takeover { client, node: other, with_request: true },
        };
        vec![(self.short(), Act::Ack { client }), (self.short(), act)]
    }

    /// Everything is delayed for everyone, while many things happen.
    fn paused(&mut self, client: usize, other: usize) -> Vec<(u64, Act)> {
        let (second, third, room) = ((client + 1) % CLIENTS, (client + 2) % CLIENTS, self.room());
        vec![
            (self.short(), Act::Pause { millis: self.random.between(400, 2600) }),
            (self.short(), Act::Unsubscribe { client, room }),
            (self.short(), Act::Subscribe { client: second, room, filter: self.filter(room), since: false }),
            (self.short(), Act::Twice { client: third, nodes: [other, (other + 1) % NODES] }),
            (self.short(), Act::Abandon { client, node: other }),
            (self.random.between(0, 1600), Act::Cut { client, node: other, away: 0 }),
            (self.short(), Act::Cut { client: second, node: other, away: 0 }),
        ]
    }

    /// A node does not receive what is published, and a client joins there with a position.
    fn missed_publications(&mut self, client: usize, node: usize) -> Vec<(u64, Act)> {
        let (action, room) = (self.random.pick(&[Action::Hold, Action::HoldAnswer]), self.room());
        let filter = self.filter(room);
        vec![
            (self.short(), Act::Rule { node, kind: Kind::Subscriptions, action, times: 3 }),
            (self.short(), Act::CutRedis { node }),
            (self.random.between(250, 900), Act::Cut { client, node, away: 0 }),
            (self.random.between(30, 300), Act::Subscribe { client, room, filter, since: true }),
            (self.random.between(0, 900), Act::Release { node }),
        ]
    }

    /// The notice of a takeover is delayed or lost, and the old connection continues to send requests.
    fn lost_takeover_notice(&mut self, client: usize, node: usize, other: usize) -> Vec<(u64, Act)> {
        let action = self.random.pick(&[Action::Hold, Action::Fail, Action::Drop]);
        let room = self.room();
        vec![
            (self.short(), Act::Takeover { client, node: other, with_request: false }),
            (self.random.between(30, 120), Act::Rule { node, kind: Kind::Notices, action, times: 1 }),
            (self.short(), Act::Takeover { client, node, with_request: true }),
            (self.short(), Act::Subscribe { client, room, filter: Filter::NONE, since: false }),
            (self.random.between(0, 900), Act::Release { node }),
        ]
    }
}
