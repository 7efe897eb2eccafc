//! The data of an `orderbook` event: `{"offset": …, "bids": [["price", "size"], …], "asks": […]}`.

use crate::decimal::{Checked, Decimal};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::cmp::Ordering;
use switchyard_sdk::{Message, Reject};

/// A book, or a change of one: each level is the size that now stands at a price, and size 0 removes it.
/// Fields beside the two sides are not looked at.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a book: {\"bids\": [...], \"asks\": [...]}")]
pub(crate) struct Book<Number = Decimal> {
    bids: Vec<Level<Number>>,
    asks: Vec<Level<Number>>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "a level: [price, size]")]
struct Level<Number = Decimal>(Number, Number);

impl Level {
    fn price(&self) -> &Decimal {
        &self.0
    }

    fn size(&self) -> &Decimal {
        &self.1
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
        message.read().map_or_else(|| Err(Self::wrong(message)), Ok)
    }

    /// What is wrong with data that is no book, with the place.
    fn wrong(message: Message<'_>) -> Reject {
        let checked = message.json::<Book<Checked>>();
        checked.err().unwrap_or_else(|| Reject::invalid("data is no book"))
    }

    /// The largest size of a level.
    pub(crate) fn largest(&self) -> Option<&Decimal> {
        self.bids.iter().chain(&self.asks).map(Level::size).max()
    }

    /// Leaves the best `depth` levels of each side; `message` is what this book was read from. Answers the new
    /// data and how many levels are gone, `None` when there is nothing to cut.
    ///
    /// # Errors
    /// `message` is another one.
    pub(crate) fn cut(&self, depth: usize, message: Message<'_>) -> Result<Option<(Vec<u8>, u64)>, Reject> {
        let bids = kept(&self.bids, depth, |one, other| other.price().cmp(one.price()));
        let asks = kept(&self.asks, depth, |one, other| one.price().cmp(other.price()));
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
/// depth, and without it a subscriber's book would show for ever what is gone. The best comes first in `order`.
fn kept(side: &[Level], depth: usize, order: fn(&Level, &Level) -> Ordering) -> Option<Vec<bool>> {
    let mut ranked: Vec<usize> = (0..side.len()).filter(|index| !side[*index].size().0.is_zero()).collect();
    if ranked.len() <= depth {
        return None;
    }
    ranked.sort_unstable_by(|one, other| order(&side[*one], &side[*other]).then(one.cmp(other)));
    let mut kept = vec![true; side.len()];
    for index in &ranked[depth..] {
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
