//! DeFi protocols on several chains: the value locked in them, and the swaps in their pools.

use crate::random::Random;
use serde_json::{Value, json};

/// Protocols, and the total value locked in each, in USD.
const PROTOCOLS: [(&str, f64); 6] = [
    ("aave-v3", 9.2e9),
    ("curve", 2.1e9),
    ("gmx", 4.6e8),
    ("lido", 2.4e10),
    ("pendle", 3.1e9),
    ("uniswap-v3", 3.7e9),
];
/// Chains, and the share of each in a protocol's value.
const CHAINS: [(&str, f64); 5] =
    [("arbitrum", 0.16), ("base", 0.12), ("ethereum", 0.58), ("optimism", 0.08), ("polygon", 0.06)];

/// Rooms `protocol:chain`, each with the pair that its pool trades, the initial price, and the pool's
/// liquidity.
const POOLS: [(&str, &str, f64, f64); 4] = [
    ("uniswap-v3:ethereum", "WETH/USDC", 3420.0, 2.1e8),
    ("uniswap-v3:base", "WETH/USDC", 3420.0, 6.4e7),
    ("curve:ethereum", "stETH/ETH", 0.9987, 3.3e8),
    ("aave-v3:arbitrum", "ARB/USDC", 0.74, 2.2e7),
];

pub(crate) struct Defi {
    /// Total value locked, in USD, by protocol and chain.
    locked: Vec<f64>,
    pools: Vec<Pool>,
}

struct Pool {
    price: f64,
    liquidity: f64,
}

impl Defi {
    pub(crate) fn new() -> Self {
        let locked =
            PROTOCOLS.iter().flat_map(|(_, all)| CHAINS.iter().map(move |(_, share)| all * share)).collect();
        let pools =
            POOLS.iter().map(|(_, _, price, liquidity)| Pool { price: *price, liquidity: *liquidity });
        Self { locked, pools: pools.collect() }
    }

    /// A change of the value that is locked in a protocol on a chain. Most changes are small, one in twelve
    /// is large.
    pub(crate) fn locked_change(&mut self, random: &mut Random) -> Value {
        let (protocol, chain) = (random.index(PROTOCOLS.len()), random.index(CHAINS.len()));
        let deviation = if random.unit() < 0.08 { 0.11 } else { 0.018 };
        let change = (random.normal() * deviation).clamp(-0.45, 0.6);
        let locked = &mut self.locked[protocol * CHAINS.len() + chain];
        let (home, before) = (PROTOCOLS[protocol].1 * CHAINS[chain].1, *locked);
        // Within bounds, so that nothing grows forever.
        *locked = (before * (1.0 + change)).clamp(home * 0.3, home * 3.0);
        let change = *locked / before - 1.0;
        json!({
            "protocol": PROTOCOLS[protocol].0,
            "chain": CHAINS[chain].0,
            "change": rounded(change, 5),
            "value": locked.round(),
            "previous": before.round(),
        })
    }

    /// A swap, and the room of its pool.
    pub(crate) fn swap(&mut self, random: &mut Random) -> (&'static str, Value) {
        let index = random.index(POOLS.len());
        let (room, pair, home, _) = POOLS[index];
        let pool = &mut self.pools[index];
        let amount = 8_000.0 * (random.normal() * 1.3).exp();
        let sells = random.unit() < 0.5;
        let impact = amount / pool.liquidity * if sells { -1.0 } else { 1.0 };
        pool.price *= (impact + (home / pool.price).ln() * 0.01).exp();
        let swap = json!({
            "pair": pair,
            "side": if sells { "sell" } else { "buy" },
            "price": rounded(pool.price, 6),
            "amountUsd": rounded(amount, 2),
        });
        (room, swap)
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_the_fields_that_filters_use_and_some_are_large() {
        let (mut defi, mut random) = (Defi::new(), Random::new(5));
        let changes: Vec<Value> = (0..2000).map(|_| defi.locked_change(&mut random)).collect();
        let large = changes.iter().filter(|change| change["change"].as_f64().unwrap().abs() >= 0.05).count();
        assert!((50..500).contains(&large), "{large} of 2000 are large");
        for change in &changes {
            assert!(change["protocol"].is_string() && change["chain"].is_string());
            assert!(change["value"].as_f64().unwrap() > 0.0);
        }
    }

    #[test]
    fn pools_stay_near_their_price() {
        let (mut defi, mut random) = (Defi::new(), Random::new(6));
        for _ in 0..20_000 {
            let (room, swap) = defi.swap(&mut random);
            let home = POOLS.iter().find(|pool| pool.0 == room).unwrap().2;
            let price = swap["price"].as_f64().unwrap();
            assert!((home * 0.8..home * 1.25).contains(&price), "{room}: {price}");
        }
    }
}
