//! The parts of an event that filters look at.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use switchyard_sdk::Decimal;

/// The names of the fields in an event's data, at the top level. By default they are those of the struct's
/// fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fields {
    /// The field that `minChange` applies to.
    pub change: String,
    /// The field that `minValue` applies to.
    pub value: String,
    /// The field that `chains` applies to.
    pub chain: String,
    /// The field that `protocols` applies to.
    pub protocol: String,
}

impl Default for Fields {
    fn default() -> Self {
        let [change, value, chain, protocol] = ["change", "value", "chain", "protocol"].map(str::to_owned);
        Self { change, value, chain, protocol }
    }
}

/// The fields of an event. A field that is missing or of another type is `None`.
#[derive(Debug, Default)]
pub struct Event {
    /// The absolute value of the change.
    pub(crate) change: Option<Decimal>,
    pub(crate) value: Option<Decimal>,
    /// In lower case, as in a normalized filter.
    pub(crate) chain: Option<String>,
    pub(crate) protocol: Option<String>,
}

impl Fields {
    /// Validates the configuration.
    ///
    /// # Errors
    /// Two fields have the same name, which must be a mistake.
    pub(crate) fn checked(self) -> Result<Self, String> {
        let names = [&self.change, &self.value, &self.chain, &self.protocol];
        match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            Some((_, name)) => {
                Err(format!("config.fields: '{name}' is used twice; each field must have its own name"))
            }
            None => Ok(self),
        }
    }

    /// Reads an event; `None` if `data` is not a JSON object.
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
        f.write_str("an event, which is an object")
    }

    /// The last value of a repeated field counts, as in the JSON parsers of clients.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut event = Event::default();
        while let Some(Text(name)) = map.next_key()? {
            if name == self.change {
                event.change = Decimal::of(map.next_value()?).map(Decimal::abs);
            } else if name == self.value {
                event.value = Decimal::of(map.next_value()?);
            } else if name == self.chain {
                event.chain = lowercase(map.next_value()?);
            } else if name == self.protocol {
                event.protocol = lowercase(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(event)
    }
}

/// A string that is borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON string in lower case; `None` for any other value.
fn lowercase(value: &RawValue) -> Option<String> {
    text(value).map(|text| text.to_ascii_lowercase())
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    // Checked first, because creating an error in serde costs more than reading the rest of a message.
    if !value.get().starts_with('"') {
        return None;
    }
    serde_json::from_slice(value.get().as_bytes()).ok().map(|Text(text)| text)
}
