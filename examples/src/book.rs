//! One market: a random price, the order book around it, and the changes of the book over time.

use crate::random::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Number of price levels on each side of the book.
const DEPTH: i64 = 20;

pub(crate) struct Market {
    /// For example `ETH-USD`.
    pub(crate) name: &'static str,
    mid_price: f64,
    /// The price drifts back to this, so that it stays plausible in a long run.
    home_price: f64,
    tick: f64,
    /// Number of decimal places of a price.
    decimals: usize,
    /// The typical size of a level.
    lot: f64,
    /// Sizes by price, in ticks.
    bids: BTreeMap<i64, f64>,
    asks: BTreeMap<i64, f64>,
}

/// The changes of one side: new sizes by price in ticks, where 0 removes the level.
type Changes = BTreeMap<i64, f64>;

impl Market {
    pub(crate) fn new(name: &'static str, price: f64, tick: f64, lot: f64) -> Self {
        let decimals = (-tick.log10()).ceil().max(0.0) as usize;
        let (bids, asks) = (BTreeMap::new(), BTreeMap::new());
        let mut market = Self { name, mid_price: price, home_price: price, tick, decimals, lot, bids, asks };
        market.refill(&mut Random::new(price.to_bits()));
        market
    }

    /// Lets some time pass, and returns the changes of the book.
    pub(crate) fn step(&mut self, random: &mut Random) -> Value {
        let pull = (self.home_price / self.mid_price).ln() * 0.002;
        self.mid_price *= (pull + random.normal() * 0.00035).exp();
        let (bids, asks) = self.refill(random);
        self.to_json(&bids, &asks)
    }

    /// The whole book.
    pub(crate) fn snapshot(&self) -> Value {
        let mut data = self.to_json(&self.bids, &self.asks);
        data["snapshot"] = true.into();
        data
    }

    /// A trade at the best price of one side.
    pub(crate) fn trade(&self, random: &mut Random) -> Value {
        let buys = random.unit() < 0.5;
        let best = if buys { self.asks.keys().next() } else { self.bids.keys().next_back() };
        let size = self.lot * (random.normal() * 0.8).exp() * 0.2;
        json!({
            "market": self.name,
            "side": if buys { "BUY" } else { "SELL" },
            "price": self.price(*best.expect("a book has levels")),
            "size": format!("{size:.3}"),
        })
    }

    /// Moves both sides of the book to the current price, and changes the sizes of some levels at random.
    fn refill(&mut self, random: &mut Random) -> (Changes, Changes) {
        let middle = (self.mid_price / self.tick).round() as i64;
        let lot = self.lot;
        let side =
            |levels: &mut BTreeMap<i64, f64>, random: &mut Random, range: std::ops::RangeInclusive<i64>| {
                let mut changes = Changes::new();
                levels.retain(|price, _| {
                    let stays = range.contains(price);
                    if !stays {
                        changes.insert(*price, 0.0);
                    }
                    stays
                });
                for price in range.clone() {
                    let missing = !levels.contains_key(&price);
                    if missing || random.unit() < 0.06 {
                        // Deeper levels are larger.
                        let distance = (price - middle).abs() as f64 / DEPTH as f64;
                        let size = lot * (0.35 + 1.6 * distance) * (random.normal() * 0.5).exp();
                        let size = (size * 100.0).ceil() / 100.0;
                        levels.insert(price, size);
                        changes.insert(price, size);
                    }
                }
                changes
            };
        let bids = side(&mut self.bids, random, middle - DEPTH..=middle - 1);
        let asks = side(&mut self.asks, random, middle + 1..=middle + DEPTH);
        (bids, asks)
    }

    fn to_json(&self, bids: &Changes, asks: &Changes) -> Value {
        let level = |(price, size): (&i64, &f64)| json!([self.price(*price), size.to_string()]);
        let bids: Vec<Value> = bids.iter().rev().map(level).collect();
        let asks: Vec<Value> = asks.iter().map(level).collect();
        json!({"bids": bids, "asks": asks})
    }

    fn price(&self, ticks: i64) -> String {
        format!("{:.*}", self.decimals, ticks as f64 * self.tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(book: &mut BTreeMap<String, String>, side: &Value) {
        for level in side.as_array().unwrap() {
            let (price, size) = (level[0].as_str().unwrap(), level[1].as_str().unwrap());
            match size {
                "0" => drop(book.remove(price)),
                _ => drop(book.insert(price.to_owned(), size.to_owned())),
            }
        }
    }

    #[test]
    fn changes_add_up_to_the_book_and_its_sides_never_cross() {
        let mut random = Random::new(1);
        let mut market = Market::new("ETH-USD", 4200.0, 0.1, 10.0);
        let (mut bids, mut asks) = (BTreeMap::new(), BTreeMap::new());
        let start = market.snapshot();
        apply(&mut bids, &start["bids"]);
        apply(&mut asks, &start["asks"]);
        for _ in 0..500 {
            let change = market.step(&mut random);
            apply(&mut bids, &change["bids"]);
            apply(&mut asks, &change["asks"]);
            assert_eq!((bids.len(), asks.len()), (DEPTH as usize, DEPTH as usize));
        }
        let now = market.snapshot();
        let (mut same_bids, mut same_asks) = (BTreeMap::new(), BTreeMap::new());
        apply(&mut same_bids, &now["bids"]);
        apply(&mut same_asks, &now["asks"]);
        assert_eq!((&bids, &asks), (&same_bids, &same_asks));
        let number = |text: &String| text.parse::<f64>().unwrap();
        let best = bids.keys().map(number).fold(0.0, f64::max);
        assert!(best < asks.keys().map(number).fold(f64::MAX, f64::min));
        assert!((2000.0..8000.0).contains(&best), "{best} is not plausible");
    }

    #[test]
    fn a_trade_is_at_the_best_price() {
        let market = Market::new("CRV-USD", 0.75, 0.0001, 5000.0);
        let trade = market.trade(&mut Random::new(3));
        assert_eq!(trade["market"], "CRV-USD");
        assert!(["0.7499", "0.7501"].contains(&trade["price"].as_str().unwrap()), "{trade}");
    }
}
