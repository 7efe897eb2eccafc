//! One room of a `subscribe`, and a position in a room's history.

use super::{
    Position, Refusal,
    fields::{clip, integer, object, required, string, wrong},
};
use crate::{Code, json};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, sync::Arc};

/// One room of a `subscribe`.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub room: Cow<'a, str>,
    /// What else was asked; an error concerns this room alone.
    pub terms: Result<Terms<'a>, Refusal>,
}

/// How a room is to be joined.
#[derive(Debug)]
pub struct Terms<'a> {
    /// A JSON object, as it was written.
    pub filter: Option<&'a str>,
    pub since: Option<Position>,
}

pub(super) fn wanted<'a>(raw: &'a RawValue) -> Result<Wanted<'a>, Refusal> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        room: Option<&'a RawValue>,
        #[serde(borrow)]
        filter: Option<&'a RawValue>,
        #[serde(borrow)]
        since: Option<&'a RawValue>,
    }
    if raw.get().starts_with('"') {
        let terms = Ok(Terms { filter: None, since: None });
        return Ok(Wanted { room: string("rooms", raw)?, terms });
    }
    let entry: Entry = match object(raw.get()) {
        Ok(entry) => entry,
        _ => return Err(wrong("an entry of rooms", raw, "a name or an object with a room")),
    };
    let room = string("room", required(entry.room, "room")?)?;
    let filter = entry.filter.map(|raw| {
        if !raw.get().starts_with('{') {
            let message = format!("filter is {}, but would be an object", clip(raw.get()));
            Err(Refusal::new(Code::FilterInvalid, message))
        } else if let Err(unfit) = json::check(raw.get()) {
            Err(Refusal::new(Code::FilterInvalid, format!("filter {unfit}")))
        } else {
            Ok(raw.get())
        }
    });
    let terms = filter
        .transpose()
        .and_then(|filter| Ok(Terms { filter, since: entry.since.map(position).transpose()? }));
    Ok(Wanted { room, terms })
}

pub(super) fn position(raw: &RawValue) -> Result<Position, Refusal> {
    #[derive(Deserialize)]
    struct Since<'a> {
        epoch: Arc<str>,
        #[serde(borrow)]
        offset: &'a RawValue,
    }
    let since: Since = object(raw.get())
        .map_err(|_| wrong("since", raw, r#"an object {"epoch": string, "offset": integer}"#))?;
    Ok(Position { epoch: since.epoch, offset: integer("since.offset", since.offset)? })
}
