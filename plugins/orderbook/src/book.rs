//! An order book, the data of an `orderbook` event:
//! `{"offset": …, "bids": [["price", "size"], …], "asks": […]}`.

use crate::decimal::{Checked, Decimal};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::cmp::Ordering;
use switchyard_sdk::{Message, Reject};

/// A book, or a change to one: each level gives the new size at a price, and size 0 removes the price. Other
/// fields are ignored.
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

/// The text of both sides, to cut levels without changing a byte of the rest.
#[derive(Deserialize)]
struct Sides<'a> {
    #[serde(borrow)]
    bids: &'a RawValue,
    #[serde(borrow)]
    asks: &'a RawValue,
}

impl Book {
    /// Reads the data of a message as a book.
    ///
    /// # Errors
    /// A reject that names the invalid field.
    pub(crate) fn read(message: Message<'_>) -> Result<Self, Reject> {
        // serde would accept a list and read the fields in order.
        if message.data.trim_ascii_start().starts_with(b"[") {
            return Err(Reject::invalid(
                "data must be a book, {\"bids\": [...], \"asks\": [...]}, got a list",
            ));
        }
        message.read().map_or_else(|| Err(Self::rejection(message)), Ok)
    }

    /// The reject for data that is not a book. It names the position of the error.
    fn rejection(message: Message<'_>) -> Reject {
        let checked = message.json::<Book<Checked>>();
        checked
            .err()
            .unwrap_or_else(|| Reject::invalid("data must be a book, {\"bids\": [...], \"asks\": [...]}"))
    }

    /// The largest size of any level.
    pub(crate) fn largest_size(&self) -> Option<&Decimal> {
        self.bids.iter().chain(&self.asks).map(Level::size).max()
    }

    /// Cuts each side to its best `depth` levels. `message` must be the one that this book was read from.
    /// Returns the new data and the number of levels that were cut, or `None` if there is nothing to cut.
    ///
    /// # Errors
    /// `message` is not the one that this book was read from.
    pub(crate) fn cut(&self, depth: usize, message: Message<'_>) -> Result<Option<(Vec<u8>, u64)>, Reject> {
        let bids = levels_to_keep(&self.bids, depth, |one, other| other.price().cmp(one.price()));
        let asks = levels_to_keep(&self.asks, depth, |one, other| one.price().cmp(other.price()));
        if bids.is_none() && asks.is_none() {
            return Ok(None);
        }
        let sides = message.json::<Sides<'_>>()?;
        let mut parts = [(sides.bids.get(), bids), (sides.asks.get(), asks)];
        // Some feeds write the asks first.
        if parts[0].0.as_ptr() > parts[1].0.as_ptr() {
            parts.swap(0, 1);
        }
        let mut data = Vec::with_capacity(message.data.len());
        let (mut copied, mut cut) = (0, 0);
        for (text, kept) in parts {
            let Some(kept) = kept else { continue };
            let start = text.as_ptr() as usize - message.data.as_ptr() as usize;
            data.extend_from_slice(&message.data[copied..start]);
            cut += kept.iter().filter(|keep| !**keep).count() as u64;
            write_kept(&mut data, text, &kept)?;
            copied = start + text.len();
        }
        data.extend_from_slice(&message.data[copied..]);
        Ok(Some((data, cut)))
    }
}

/// Which levels to keep, or `None` to keep all: the best `depth` levels with a size, and every removal. A
/// removal adds no depth, and without it the price would stay in a subscriber's book for ever. `order` sorts
/// the best level first.
fn levels_to_keep(side: &[Level], depth: usize, order: fn(&Level, &Level) -> Ordering) -> Option<Vec<bool>> {
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

/// Appends one side to `data`, with only the levels to keep.
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
