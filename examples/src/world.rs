//! Everything that is published, as one sequence.

use crate::{book::Market, defi::Defi, random::Random};
use serde_json::{Value, json};

/// Between two whole books of a market; who joins in between waits so long for one.
const CHANGES: u64 = 60;

pub struct Event {
    pub room: String,
    pub event: &'static str,
    pub data: Value,
}

pub struct World {
    random: Random,
    markets: Vec<(Market, u64)>,
    defi: Defi,
    /// Numbers the books, as dYdX does.
    offset: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let markets = vec![
            Market::new("ETH-USD", 3420.0, 0.1, 12.0),
            Market::new("BTC-USD", 64_250.0, 1.0, 0.9),
            Market::new("SOL-USD", 148.0, 0.01, 220.0),
        ];
        let markets = markets.into_iter().map(|market| (market, 0)).collect();
        Self { random: Random::new(seed), markets, defi: Defi::new(), offset: 0 }
    }

    /// Whole books come first again: somebody may have missed changes.
    pub fn forget(&mut self) {
        self.markets.iter_mut().for_each(|(_, since)| *since = 0);
    }

    pub fn next_event(&mut self) -> Event {
        let random = &mut self.random;
        match random.unit() {
            ..0.62 => self.book(),
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

    fn book(&mut self) -> Event {
        let index = self.random.index(self.markets.len());
        let (market, since) = &mut self.markets[index];
        self.offset += 1;
        let mut data = market.step(&mut self.random);
        if *since == 0 {
            data = market.snapshot();
        }
        *since = (*since + 1) % CHANGES;
        data["offset"] = json!(self.offset.to_string());
        Event { room: format!("dydx:{}", market.name.to_lowercase()), event: "orderbook", data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_seed_makes_one_feed_of_every_kind_of_room() {
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
    fn the_first_book_of_a_market_is_whole_and_after_forgetting_again() {
        let mut world = World::new(1);
        let books = |world: &mut World| loop {
            let event = world.next_event();
            if event.event == "orderbook" {
                return event.data["snapshot"] == true;
            }
        };
        assert!(books(&mut world));
        assert!((0..20).any(|_| !books(&mut world)), "changes follow");
        world.forget();
        assert!(books(&mut world));
    }
}
