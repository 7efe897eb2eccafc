//! The offsets that an `ack` names. Does not know whether they were sent.

use super::{
    MAX_ROOMS_PER_FRAME, RequestFields,
    fields::{PositionFields, integer, invalid, object, required, string},
    room, too_many_rooms,
};
use crate::Refusal;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// Says that the client has handled everything in a room up to and including an offset. A client writes it with
/// [`crate::client::ClientRequest::Ack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The room as the client knows it. The server parses the name later.
    pub room: Cow<'a, str>,
    /// The epoch of the offset. If it is absent, the offset belongs to the epoch that the connection received
    /// last.
    pub epoch: Option<Arc<str>>,
    /// The offset of the newest message that is handled.
    pub offset: u64,
}

pub(super) fn acks<'a>(fields: &RequestFields<'a>) -> Result<Vec<Ack<'a>>, Refusal> {
    if let Some(raw) = fields.offsets {
        // Borrowed keys cannot have escapes, so the names are owned here; an ack of several rooms is rare.
        let offsets: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| invalid("offsets", raw, r#"an object {"room": offset, …}"#))?;
        if offsets.len() > MAX_ROOMS_PER_FRAME {
            return Err(too_many_rooms("offsets", offsets.len()));
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

/// Parses an offset, or an object that also names its epoch.
fn offset(raw: &RawValue) -> Result<(Option<Arc<str>>, u64), Refusal> {
    if !raw.get().starts_with('{') {
        return Ok((None, integer("an offset", raw)?));
    }
    let fields: PositionFields = object(raw.get()).map_err(|_| {
        invalid("an offset", raw, r#"an integer or an object {"epoch": string, "offset": integer}"#)
    })?;
    Ok((fields.epoch, integer("offset", fields.offset)?))
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
    fn the_number_of_rooms_is_limited() {
        let frame = |count: usize| {
            let offsets: Vec<_> = (0..count).map(|n| format!(r#""r{n}":1"#)).collect();
            format!(r#"{{"type":"ack","offsets":{{{}}}}}"#, offsets.join(","))
        };
        assert_eq!(acks(&frame(MAX_ROOMS_PER_FRAME)).unwrap().len(), MAX_ROOMS_PER_FRAME);
        assert!(acks(&frame(MAX_ROOMS_PER_FRAME + 1)).unwrap_err().message.contains("names 1001 rooms"));
    }

    #[test]
    fn offsets_are_integers_of_53_bits() {
        for (offset, is_valid) in
            [("1.5", false), ("9007199254740992", false), ("\"1\"", false), ("9007199254740991", true)]
        {
            let text = format!(r#"{{"type":"ack","room":"a","offset":{offset}}}"#);
            assert_eq!(acks(&text).is_ok(), is_valid, "{offset}");
        }
    }
}
