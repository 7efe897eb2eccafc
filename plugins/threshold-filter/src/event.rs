//! What of an event the filters look at.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use switchyard_sdk::Decimal;

/// The names of an event's fields, at the top of its data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fields {
    pub change: String,
    pub value: String,
    pub chain: String,
    pub protocol: String,
}

impl Default for Fields {
    fn default() -> Self {
        let [change, value, chain, protocol] = ["change", "value", "chain", "protocol"].map(str::to_owned);
        Self { change, value, chain, protocol }
    }
}

/// What was found; a field that is missing, or of another kind, is `None`.
#[derive(Debug, Default)]
pub struct Event {
    /// Up or down.
    pub(crate) change: Option<Decimal>,
    pub(crate) value: Option<Decimal>,
    /// In lower case, as in a normalized filter.
    pub(crate) chain: Option<String>,
    pub(crate) protocol: Option<String>,
}

impl Fields {
    /// # Errors
    /// Two meanings under one name, which only a slip of the pen asks for.
    pub(crate) fn checked(self) -> Result<Self, String> {
        let names = [&self.change, &self.value, &self.chain, &self.protocol];
        match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            Some((_, name)) => Err(format!("config.fields: '{name}' stands for two fields")),
            None => Ok(self),
        }
    }

    /// `None` when `data` is not a JSON object.
    pub(crate) fn read(&self, data: &[u8]) -> Option<Event> {
        let mut json = serde_json::Deserializer::from_slice(data);
        let event = self.deserialize(&mut json).ok()?;
        json.end().ok().map(|()| event)
    }
}

impl<'de> DeserializeSeed<'de> for &Fields {
    type Value = Event;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Event, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &Fields {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: an object")
    }

    /// Of a name that comes twice the last counts, as it does for the client that reads the message.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut event = Event::default();
        while let Some(Text(name)) = map.next_key()? {
            if name == self.change {
                event.change = Decimal::of(map.next_value()?).map(Decimal::abs);
            } else if name == self.value {
                event.value = Decimal::of(map.next_value()?);
            } else if name == self.chain {
                event.chain = lower(map.next_value()?);
            } else if name == self.protocol {
                event.protocol = lower(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(event)
    }
}

/// Borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn lower(value: &RawValue) -> Option<String> {
    text(value).map(|text| text.to_ascii_lowercase())
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    // Asked first, because an error of serde's costs more than the rest of a message.
    if !value.get().starts_with('"') {
        return None;
    }
    serde_json::from_slice(value.get().as_bytes()).ok().map(|Text(text)| text)
}
