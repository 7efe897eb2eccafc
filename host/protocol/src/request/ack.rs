//! What an `ack` says is handled.

use super::{
    Fields, MAX_ROOMS, Refusal,
    fields::{integer, object, required, string, wrong},
    room, too_many,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// Everything of a room up to an offset is handled.
#[derive(Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    pub room: Cow<'a, str>,
    /// Of the offset; without it, the one that the client was told last.
    pub epoch: Option<Arc<str>>,
    pub offset: u64,
}

pub(super) fn acks<'a>(fields: &Fields<'a>) -> Result<Vec<Ack<'a>>, Refusal> {
    if let Some(raw) = fields.offsets {
        // Borrowed keys fail on escapes, so the names are owned here; an ack of many rooms is rare.
        let offsets: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| wrong("offsets", raw, r#"an object {"room": offset, …}"#))?;
        if offsets.len() > MAX_ROOMS {
            return Err(too_many("offsets", offsets.len()));
        }
        let ack = |(room, raw)| {
            let (epoch, offset) = offset(raw)?;
            Ok(Ack { room: Cow::Owned(room), epoch, offset })
        };
        return offsets.into_iter().map(ack).collect();
    }
    let offset = integer("offset", required(fields.offset, "offset")?)?;
    let epoch = fields.epoch.map(|raw| string("epoch", raw)).transpose()?;
    Ok(vec![Ack { room: room(fields)?, epoch: epoch.map(Into::into), offset }])
}

/// An offset, or an object that also names its epoch.
fn offset(raw: &RawValue) -> Result<(Option<Arc<str>>, u64), Refusal> {
    #[derive(Deserialize)]
    struct Named<'a> {
        epoch: Option<Arc<str>>,
        #[serde(borrow)]
        offset: &'a RawValue,
    }
    if !raw.get().starts_with('{') {
        return Ok((None, integer("an offset", raw)?));
    }
    let named: Named = object(raw.get()).map_err(|_| {
        wrong("an offset", raw, r#"an integer or an object {"epoch": string, "offset": integer}"#)
    })?;
    Ok((named.epoch, integer("offset", named.offset)?))
}

#[cfg(test)]
mod tests {
    use super::super::{Request, parse};
    use super::*;

    fn acks(text: &str) -> Result<Vec<Ack<'_>>, Refusal> {
        let (_, Request::Ack { acks }) = parse(text).unwrap() else { panic!("not an ack") };
        acks
    }

    #[test]
    fn an_ack_may_name_the_epoch_of_each_offset() {
        let ack = |room, epoch: Option<&str>, offset| Ack {
            room: Cow::Borrowed(room),
            epoch: epoch.map(Into::into),
            offset,
        };
        let one = acks(r#"{"type":"ack","room":"a","epoch":"e","offset":5}"#);
        assert_eq!(one, Ok(vec![ack("a", Some("e"), 5)]));
        let several = acks(
            r#"{"type":"ack","offsets":{"a":{"epoch":"e","offset":5},"b":7,"c":{"offset":1},"\u0064":0}}"#,
        );
        let expected = vec![ack("a", Some("e"), 5), ack("b", None, 7), ack("c", None, 1), ack("d", None, 0)];
        assert_eq!(several, Ok(expected));
        for text in [
            r#"{"type":"ack","room":"a","epoch":1,"offset":5}"#,
            r#"{"type":"ack","offsets":{"a":{"epoch":"e"}}}"#,
            r#"{"type":"ack","offsets":{"a":{"epoch":1,"offset":5}}}"#,
            r#"{"type":"ack","offsets":{"a":["e",5]}}"#,
        ] {
            assert!(acks(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_frame_acknowledges_so_many_rooms_and_no_more() {
        let frame = |count: usize| {
            let offsets: Vec<_> = (0..count).map(|n| format!(r#""r{n}":1"#)).collect();
            format!(r#"{{"type":"ack","offsets":{{{}}}}}"#, offsets.join(","))
        };
        assert_eq!(acks(&frame(MAX_ROOMS)).unwrap().len(), MAX_ROOMS);
        assert!(acks(&frame(MAX_ROOMS + 1)).unwrap_err().message.contains("names 1001 rooms"));
    }

    #[test]
    fn offsets_are_integers_of_53_bits() {
        for (offset, is_one) in
            [("1.5", false), ("9007199254740992", false), ("\"1\"", false), ("9007199254740991", true)]
        {
            let text = format!(r#"{{"type":"ack","room":"a","offset":{offset}}}"#);
            assert_eq!(acks(&text).is_ok(), is_one, "{offset}");
        }
    }
}
