//! The data of an `orderbook` event: `{"offset": …, "bids": [["price", "size"], …], "asks": […]}`.

use crate::decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use switchyard_sdk::{Message, Reject};

/// A book, or a change of one: each level is the size that now stands at a price, and size 0 removes it.
/// Fields beside the two sides are not looked at.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a book: {\"bids\": [...], \"asks\": [...]}")]
pub(crate) struct Book {
    bids: Vec<Level>,
    asks: Vec<Level>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(expecting = "a level: [price, size]")]
struct Level(Decimal, Decimal);

impl Level {
    fn price(self) -> f64 {
        self.0.0
    }

    fn size(self) -> f64 {
        self.1.0
    }
}

/// The text of the sides, for cutting without touching a byte of what stays.
#[derive(Deserialize)]
struct Sides<'a> {
    #[serde(borrow)]
    bids: &'a RawValue,
    #[serde(borrow)]
    asks: &'a RawValue,
}

impl Book {
    /// # Errors
    /// A reject that names the field which is wrong.
    pub(crate) fn read(message: Message<'_>) -> Result<Self, Reject> {
        // serde would read a list as the fields in their order.
        if message.data.trim_ascii_start().starts_with(b"[") {
            return Err(Reject::invalid("data is a list, but a book is {\"bids\": [...], \"asks\": [...]}"));
        }
        message.json()
    }

    /// The largest size of a level.
    pub(crate) fn largest(&self) -> Option<f64> {
        self.bids.iter().chain(&self.asks).map(|level| level.size()).reduce(f64::max)
    }

    /// Leaves the best `depth` levels of each side; `message` is what this book was read from. Answers the new
    /// data and how many levels are gone, `None` when there is nothing to cut.
    ///
    /// # Errors
    /// `message` is another one.
    pub(crate) fn cut(&self, depth: usize, message: Message<'_>) -> Result<Option<(Vec<u8>, u64)>, Reject> {
        // The bits of numbers that are not negative are in the order of the numbers.
        let bids = kept(&self.bids, depth, |level| !level.price().to_bits());
        let asks = kept(&self.asks, depth, |level| level.price().to_bits());
        if bids.is_none() && asks.is_none() {
            return Ok(None);
        }
        let sides = message.json::<Sides<'_>>()?;
        let mut parts = [(sides.bids.get(), bids), (sides.asks.get(), asks)];
        // A feed may write its asks first.
        if parts[0].0.as_ptr() > parts[1].0.as_ptr() {
            parts.swap(0, 1);
        }
        let mut data = Vec::with_capacity(message.data.len());
        let (mut copied, mut gone) = (0, 0);
        for (text, kept) in parts {
            let Some(kept) = kept else { continue };
            let start = text.as_ptr() as usize - message.data.as_ptr() as usize;
            data.extend_from_slice(&message.data[copied..start]);
            gone += kept.iter().filter(|keep| !**keep).count() as u64;
            write_kept(&mut data, text, &kept)?;
            copied = start + text.len();
        }
        data.extend_from_slice(&message.data[copied..]);
        Ok(Some((data, gone)))
    }
}

/// Which levels stay, `None` for all: the best `depth` of those with a size, and every removal. A removal adds no
/// depth, and without it a subscriber's book would show for ever what is gone. The best has the lowest rank.
fn kept(side: &[Level], depth: usize, rank: fn(Level) -> u64) -> Option<Vec<bool>> {
    let sized = side.iter().enumerate().filter(|(_, level)| level.size() > 0.0);
    let mut ranked: Vec<(u64, usize)> = sized.map(|(index, level)| (rank(*level), index)).collect();
    if ranked.len() <= depth {
        return None;
    }
    ranked.sort_unstable();
    let mut kept = vec![true; side.len()];
    for (_, index) in &ranked[depth..] {
        kept[*index] = false;
    }
    Some(kept)
}

fn write_kept(data: &mut Vec<u8>, side: &str, kept: &[bool]) -> Result<(), Reject> {
    let levels: Vec<&RawValue> =
        serde_json::from_slice(side.as_bytes()).map_err(|error| Reject::internal(error.to_string()))?;
    let mut separator = b'[';
    for (level, _) in levels.iter().zip(kept).filter(|(_, keep)| **keep) {
        data.push(separator);
        data.extend_from_slice(level.get().as_bytes());
        separator = b',';
    }
    data.push(b']');
    Ok(())
}
