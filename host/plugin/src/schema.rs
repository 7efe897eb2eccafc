//! Checking a value against a JSON Schema, as far as the schemas of plugins need it. Keywords that are not listed
//! here allow everything.

use serde_json::{Map, Value};
use std::fmt::Write;

/// Maximum depth of a value and of its schema. What is deeper is not checked.
const MAX_DEPTH: usize = 32;
/// Maximum number of problems that are reported.
const MAX_PROBLEMS: usize = 20;
/// How much of a value a problem shows, in characters.
const MAX_SHOWN_CHARS: usize = 100;

/// What is wrong with `value`, each as a sentence that begins with the path of the part in question: `type`,
/// `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `minimum`, `maximum`, `anyOf`,
/// `oneOf` and `allOf` are checked, and other keywords are not.
pub fn find_schema_problems(schema: &Value, path: &str, value: &Value) -> Vec<String> {
    let mut problems = vec![];
    check(schema, path, value, MAX_DEPTH, &mut problems);
    problems.truncate(MAX_PROBLEMS);
    problems
}

fn check(schema: &Value, path: &str, value: &Value, depth: usize, problems: &mut Vec<String>) {
    if *schema == Value::Bool(false) {
        return problems.push(format!("{path} is not allowed"));
    }
    let Some(schema) = schema.as_object().filter(|_| depth > 0) else { return };
    let mut wrong =
        |expected: String| problems.push(format!("{path} must be {expected}, got {}", excerpt(value)));
    if let Some(types) = schema.get("type") {
        let names: Vec<_> = match types {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if !names.is_empty() && !names.iter().any(|name| has_type(value, name)) {
            return wrong(names.iter().map(|name| with_article(name)).collect::<Vec<_>>().join(" or "));
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        wrong(format!("one of {}", allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")));
    }
    if let Some(only) = schema.get("const").filter(|only| *only != value) {
        wrong(only.to_string());
    }
    if let Some(number) = value.as_f64() {
        let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
        if limit("minimum").is_some_and(|minimum| number < minimum) {
            wrong(format!("at least {}", schema["minimum"]));
        }
        if limit("maximum").is_some_and(|maximum| number > maximum) {
            wrong(format!("at most {}", schema["maximum"]));
        }
    }
    match value {
        Value::Object(fields) => check_fields(schema, path, fields, depth, problems),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let schema = schema.get("items").unwrap_or(&Value::Null);
                check(schema, &format!("{path}[{n}]"), item, depth - 1, problems);
            }
        }
        _ => {}
    }
    for all in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        check(all, path, value, depth - 1, problems);
    }
    for key in ["anyOf", "oneOf"] {
        let Some(options) = schema.get(key).and_then(Value::as_array) else { continue };
        let tried = options.iter().map(|option| {
            let mut problems = vec![];
            check(option, path, value, depth - 1, &mut problems);
            problems
        });
        // The option that is nearest tells most.
        match tried.min_by_key(Vec::len) {
            Some(nearest) if !nearest.is_empty() => problems.extend(nearest),
            _ => {}
        }
    }
}

fn check_fields(
    schema: &Map<String, Value>,
    path: &str,
    fields: &Map<String, Value>,
    depth: usize,
    problems: &mut Vec<String>,
) {
    let known = schema.get("properties").and_then(Value::as_object);
    for name in
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            problems.push(format!("{path}.{name} is missing"));
        }
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match (known.and_then(|known| known.get(name)), schema.get("additionalProperties")) {
            (Some(schema), _) => check(schema, &path, value, depth - 1, problems),
            (None, Some(Value::Bool(false))) => {
                let mut problem = format!("{path} is not a known field");
                if let Some(known) = known.filter(|known| !known.is_empty()) {
                    let names = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                    write!(problem, "; expected one of {names}").ok();
                }
                problems.push(problem);
            }
            (None, Some(schema)) => check(schema, &path, value, depth - 1, problems),
            (None, None) => {}
        }
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        // 5.0 is an integer, too.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => true,
    }
}

fn with_article(name: &str) -> String {
    match name {
        "null" => name.to_owned(),
        "array" | "object" | "integer" => format!("an {name}"),
        name => format!("a {name}"),
    }
}

fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_problem_names_the_part_and_what_would_be_right() {
        let schema = json!({
            "type": "object",
            "properties": {
                "max": {"type": "number", "minimum": 0},
                "level": {"anyOf": [{"type": "integer", "maximum": 9}, {"type": "null"}]},
                "rooms": {"type": "array", "items": {"type": "string"}},
                "mode": {"enum": ["open", "closed"]},
                "by": {"type": "object", "additionalProperties": {"type": "boolean"}},
            },
            "required": ["max"], "additionalProperties": false,
        });
        let problems = |value: Value| find_schema_problems(&schema, "config", &value);
        let good = json!({"max": 1, "level": null, "rooms": ["a"], "mode": "open", "by": {"a": true}});
        assert_eq!(problems(good), [""; 0]);
        for (value, expected) in [
            (json!([]), "config must be an object, got []"),
            (json!({}), "config.max is missing"),
            (json!({"max": "1"}), "config.max must be a number, got \"1\""),
            (json!({"max": -1}), "config.max must be at least 0, got -1"),
            (json!({"max": 1, "level": 10}), "config.level must be at most 9, got 10"),
            (json!({"max": 1, "level": 1.5}), "config.level must be an integer, got 1.5"),
            (json!({"max": 1, "rooms": ["a", 2]}), "config.rooms[1] must be a string, got 2"),
            (
                json!({"max": 1, "mode": "ajar"}),
                "config.mode must be one of \"open\", \"closed\", got \"ajar\"",
            ),
            (json!({"max": 1, "by": {"a": 1}}), "config.by.a must be a boolean, got 1"),
            (
                json!({"max": 1, "mix": 1}),
                "config.mix is not a known field; expected one of by, level, max, mode, rooms",
            ),
        ] {
            assert_eq!(problems(value), [expected]);
        }
    }

    #[test]
    fn what_is_not_known_allows_everything() {
        let schema = json!({"type": "string", "pattern": "^a$", "$ref": "#/nowhere"});
        assert_eq!(find_schema_problems(&schema, "x", &json!("b")), [""; 0]);
        assert_eq!(find_schema_problems(&json!(true), "x", &json!("b")), [""; 0]);
        assert_eq!(find_schema_problems(&json!(false), "x", &json!("b")), ["x is not allowed"]);
    }

    #[test]
    fn a_deep_schema_ends() {
        let (mut schema, mut value) = (json!({}), json!(1));
        for _ in 0..2 * MAX_DEPTH {
            (schema, value) = (json!({"items": schema}), json!([value]));
        }
        assert_eq!(find_schema_problems(&schema, "x", &value), [""; 0]);
    }
}
