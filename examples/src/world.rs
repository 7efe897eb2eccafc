//! The whole feed: the messages of all markets and protocols as one sequence.

use crate::{book::Market, defi::Defi, random::Random};
use serde_json::{Value, json};

/// Number of order book messages of a market from one snapshot of the whole book to the next.
const SNAPSHOT_INTERVAL: u64 = 60;

/// A message to publish.
pub struct Event {
    /// The room to publish to.
    pub room: String,
    /// The name of the event, such as `trade`.
    pub event: &'static str,
    /// The data of the message, an object.
    pub data: Value,
}

/// The state of all markets and protocols.
pub struct World {
    random: Random,
    /// Each with the number of its book messages since the last snapshot.
    markets: Vec<(Market, u64)>,
    defi: Defi,
    /// The number of the last order book message, which is part of its data as on dYdX.
    offset: u64,
}

impl World {
    /// A new feed. The same seed produces the same feed.
    pub fn new(seed: u64) -> Self {
        let markets = vec![
            Market::new("ETH-USD", 3420.0, 0.1, 12.0),
            Market::new("BTC-USD", 64_250.0, 1.0, 0.9),
            Market::new("SOL-USD", 148.0, 0.01, 220.0),
        ];
        let markets = markets.into_iter().map(|market| (market, 0)).collect();
        Self { random: Random::new(seed), markets, defi: Defi::new(), offset: 0 }
    }

    /// Makes the next message of each order book a snapshot, because subscribers may have missed changes.
    pub fn restart_with_snapshots(&mut self) {
        self.markets.iter_mut().for_each(|(_, since_snapshot)| *since_snapshot = 0);
    }

    /// Produces the next message.
    pub fn next_event(&mut self) -> Event {
        let random = &mut self.random;
        match random.unit() {
            ..0.62 => self.book_event(),
            ..0.74 => {
                let index = random.index(self.markets.len());
                let data = self.markets[index].0.trade(random);
                Event { room: "trades".into(), event: "trade", data }
            }
            ..0.90 => {
                let data = self.defi.locked_change(random);
                Event { room: "tvl_changes".into(), event: "tvl_change", data }
            }
            _ => {
                let (room, data) = self.defi.swap(random);
                Event { room: room.into(), event: "swap", data }
            }
        }
    }

    fn book_event(&mut self) -> Event {
        let index = self.random.index(self.markets.len());
        let (market, since_snapshot) = &mut self.markets[index];
        self.offset += 1;
        let mut data = market.step(&mut self.random);
        if *since_snapshot == 0 {
            data = market.snapshot();
        }
        *since_snapshot = (*since_snapshot + 1) % SNAPSHOT_INTERVAL;
        data["offset"] = json!(self.offset.to_string());
        Event { room: format!("dydx:{}", market.name.to_lowercase()), event: "orderbook", data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_same_seed_produces_the_same_feed_for_all_kinds_of_rooms() {
        let (mut a, mut b) = (World::new(42), World::new(42));
        let mut rooms: HashMap<String, u32> = HashMap::new();
        for _ in 0..1000 {
            let (one, other) = (a.next_event(), b.next_event());
            assert_eq!((&one.room, &one.data), (&other.room, &other.data));
            *rooms.entry(one.room).or_default() += 1;
        }
        for room in ["dydx:eth-usd", "trades", "tvl_changes", "uniswap-v3:ethereum"] {
            assert!(rooms.get(room).is_some_and(|count| *count > 10), "{room}: {rooms:?}");
        }
    }

    #[test]
    fn the_first_book_is_a_snapshot_and_again_after_a_restart() {
        let mut world = World::new(1);
        let next_book_is_snapshot = |world: &mut World| loop {
            let event = world.next_event();
            if event.event == "orderbook" {
                return event.data["snapshot"] == true;
            }
        };
        assert!(next_book_is_snapshot(&mut world));
        assert!((0..20).any(|_| !next_book_is_snapshot(&mut world)), "changes follow");
        world.restart_with_snapshots();
        assert!(next_book_is_snapshot(&mut world));
    }
}
