//! JSON Schemas of the types that a plugin reads with serde. They are found by reading samples: a deserializer
//! notes what the type asks for, and gives it that. So a type needs no further derive. What a type checks after
//! reading, such as a range, is not in its schema. What it reads without saying what it expects is left open:
//! untagged and internally tagged enums, flattened fields, and values of any type.

mod sample;
mod shape;

use sample::{Outcome, Plan, read_sample};
use serde::de::DeserializeOwned;
use shape::Shape;

/// Maximum number of samples that are read to find the variants of enums, and the fields after one that rejects
/// its sample.
const MAX_SAMPLES: usize = 256;

/// The JSON Schema of what `T` reads with serde, found by giving it samples. Untagged and internally tagged enums,
/// flattened fields and values of any type are left open. So is whatever a type checks after reading a value.
///
/// ```
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     max: f64,
/// }
///
/// let schema = r#"{"type":"object","properties":{"max":{"type":"number"}},"required":["max"],"additionalProperties":false}"#;
/// assert_eq!(switchyard_sdk::schema_of::<Config>(), schema);
/// ```
pub fn schema_of<T: DeserializeOwned>() -> String {
    let (mut shape, mut plan) = (Shape::Any, Plan::default());
    for _ in 0..MAX_SAMPLES {
        let (seen, outcome) = read_sample::<T>(&plan);
        shape.merge(seen);
        match outcome {
            // Skips the field, to see those after it.
            Outcome::Rejected(Some(path)) if !plan.omitted.contains(&path) => plan.omitted.push(path),
            _ => match shape.next_variant(&mut String::new(), &plan.variants) {
                Some(variant) => plan.variants.push(variant),
                None => break,
            },
        }
    }
    plan.variants.clear();
    shape.complete(&mut String::new(), &mut |path, field| match field {
        Some(_) => {
            let mut plan = plan.clone();
            plan.omitted.push(path.to_owned());
            read_sample::<T>(&plan).1
        }
        None => read_sample::<T>(&Plan { unknown: Some(path.to_owned()), ..plan.clone() }).1,
    });
    let mut text = String::new();
    shape.write(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::schema_of;
    use serde::Deserialize;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn schema<T: serde::de::DeserializeOwned>() -> Value {
        serde_json::from_str(&schema_of::<T>()).unwrap()
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    #[expect(dead_code, reason = "only read")]
    struct Config {
        max_price: f64,
        #[serde(default)]
        rooms: Vec<String>,
        level: Option<u8>,
        by_chain: BTreeMap<String, Limit>,
        mode: Mode,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Limit {
        at_least: i64,
        #[serde(default)]
        strict: bool,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    #[expect(dead_code, reason = "only read")]
    enum Mode {
        Open,
        Closed,
        Above(f64),
        Between { low: u32, high: u32 },
    }

    #[test]
    fn a_schema_has_the_fields_of_the_type() {
        let limit = json!({
            "type": "object", "properties": {"at_least": {"type": "integer"}, "strict": {"type": "boolean"}},
            "required": ["at_least"],
        });
        let number = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        let variant = |name: &str, value: Value| json!({"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": false});
        // Which fields of a variant are required is not known.
        let between = json!({"type": "object", "properties": {"low": number, "high": number}});
        let expected = json!({
            "type": "object",
            "properties": {
                "maxPrice": {"type": "number"},
                "rooms": {"type": "array", "items": {"type": "string"}},
                "level": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 255}, {"type": "null"}]},
                "byChain": {"type": "object", "additionalProperties": limit},
                "mode": {"anyOf": [
                    {"enum": ["open", "closed"]}, variant("above", json!({"type": "number"})), variant("between", between),
                ]},
            },
            "required": ["maxPrice", "byChain", "mode"],
            "additionalProperties": false,
        });
        assert_eq!(schema::<Config>(), expected);
    }

    #[test]
    fn what_a_type_does_not_tell_is_left_open() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Open {
            value: Value,
            checked: Even,
            after: bool,
        }
        /// Rejects the sample.
        #[derive(Deserialize)]
        #[serde(try_from = "u32")]
        #[expect(dead_code, reason = "only read")]
        struct Even(u32);
        impl TryFrom<u32> for Even {
            type Error = String;

            fn try_from(number: u32) -> Result<Self, String> {
                if number.is_multiple_of(2) { Ok(Self(number)) } else { Err(format!("{number} is odd")) }
            }
        }
        let schema = schema::<Open>();
        assert_eq!(schema["properties"]["value"], json!({}));
        assert_eq!(schema["properties"]["checked"]["type"], "integer");
        assert_eq!(
            schema["properties"]["after"],
            json!({"type": "boolean"}),
            "the fields after it are there: {schema}"
        );
        assert_eq!(schema.get("additionalProperties"), None);
    }

    #[test]
    fn a_type_that_contains_itself_has_a_finite_schema() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Tree {
            name: String,
            parts: Vec<Tree>,
            next: Option<Box<Tree>>,
        }
        assert!(schema_of::<Tree>().len() < 100_000);
    }
}
