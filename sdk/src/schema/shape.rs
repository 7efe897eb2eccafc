//! What is known about a type: the part of a JSON Schema that serde can tell.

use super::sample::{Outcome, planned_variant};

#[derive(Debug, Default)]
pub(super) enum Shape {
    #[default]
    Any,
    Null,
    Bool,
    /// With the smallest and the largest value, unless they are those of 64 bits.
    Integer(Option<i64>, Option<i64>),
    Number,
    String,
    Optional(Box<Shape>),
    List(Box<Shape>),
    /// An object whose keys are not known.
    Map(Box<Shape>),
    Object {
        fields: Vec<Field>,
        /// Whether other fields are an error.
        is_closed: bool,
    },
    Enum(Vec<(&'static str, Variant)>),
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub is_required: bool,
}

#[derive(Debug)]
pub(super) enum Variant {
    /// No sample had it.
    Unknown,
    Unit,
    Value(Shape),
}

impl Shape {
    pub(super) fn object(fields: &'static [&'static str]) -> Self {
        let field = |name: &&'static str| Field { name, shape: Self::Any, is_required: false };
        Self::Object { fields: fields.iter().map(field).collect(), is_closed: false }
    }

    /// Adds what another sample has shown.
    pub(super) fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Optional(own), Self::Optional(other))
            | (Self::List(own), Self::List(other))
            | (Self::Map(own), Self::Map(other)) => own.merge(*other),
            (Self::Object { fields, .. }, Self::Object { fields: others, .. }) => {
                fields.iter_mut().zip(others).for_each(|(own, other)| own.shape.merge(other.shape));
            }
            (Self::Enum(variants), Self::Enum(others)) => {
                for ((_, own), (_, other)) in variants.iter_mut().zip(others) {
                    match (own, other) {
                        (Variant::Value(own), Variant::Value(other)) => own.merge(other),
                        (own @ Variant::Unknown, other) => *own = other,
                        _ => {}
                    }
                }
            }
            (own @ Self::Any, other) => *own = other,
            _ => {}
        }
    }

    /// The path and the number of a variant that no sample has shown, and none was planned to.
    pub(super) fn next_variant(
        &self,
        path: &mut String,
        planned: &[(String, usize)],
    ) -> Option<(String, usize)> {
        match self {
            Self::Optional(inner) | Self::List(inner) | Self::Map(inner) => inner.next_variant(path, planned),
            Self::Object { fields, .. } => fields
                .iter()
                .find_map(|field| within(path, field.name, |path| field.shape.next_variant(path, planned))),
            Self::Enum(variants) => {
                variants.iter().enumerate().find_map(|(index, (name, variant))| match variant {
                    Variant::Unknown => {
                        (index > planned_variant(planned, path)).then(|| (path.clone(), index))
                    }
                    Variant::Unit => None,
                    Variant::Value(shape) => within(path, name, |path| shape.next_variant(path, planned)),
                })
            }
            _ => None,
        }
    }

    /// Finds out which fields are required, and whether others are allowed. `read` reads a sample without a field,
    /// or with an unknown one in the object at this path.
    pub(super) fn complete(
        &mut self,
        path: &mut String,
        read: &mut impl FnMut(&str, Option<&str>) -> Outcome,
    ) {
        match self {
            Self::Optional(inner) | Self::List(inner) | Self::Map(inner) => inner.complete(path, read),
            Self::Object { fields, is_closed } => {
                *is_closed = matches!(read(path, None), Outcome::UnknownField);
                for Field { name, shape, is_required } in fields {
                    within(path, name, |path| {
                        *is_required = matches!(read(path, Some(name)), Outcome::MissingField(missing) if missing == *name);
                        shape.complete(path, read);
                    });
                }
            }
            // Reading the fields of a variant would need a sample with that variant.
            _ => {}
        }
    }

    /// Appends the JSON Schema.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Any => out.push_str("{}"),
            Self::Null => out.push_str(r#"{"type":"null"}"#),
            Self::Bool => out.push_str(r#"{"type":"boolean"}"#),
            Self::Number => out.push_str(r#"{"type":"number"}"#),
            Self::String => out.push_str(r#"{"type":"string"}"#),
            Self::Integer(minimum, maximum) => {
                out.push_str(r#"{"type":"integer""#);
                for (key, limit) in [("minimum", minimum), ("maximum", maximum)] {
                    if let Some(limit) = limit {
                        out.push_str(&format!(",\"{key}\":{limit}"));
                    }
                }
                out.push('}');
            }
            Self::Optional(inner) => {
                out.push_str(r#"{"anyOf":["#);
                inner.write(out);
                out.push_str(r#",{"type":"null"}]}"#);
            }
            Self::List(inner) => {
                out.push_str(r#"{"type":"array","items":"#);
                inner.write(out);
                out.push('}');
            }
            Self::Map(inner) => {
                out.push_str(r#"{"type":"object","additionalProperties":"#);
                inner.write(out);
                out.push('}');
            }
            Self::Object { fields, is_closed } => {
                out.push_str(r#"{"type":"object","properties":{"#);
                write_list(out, fields, |out, field| {
                    write_text(out, field.name);
                    out.push(':');
                    field.shape.write(out);
                });
                out.push('}');
                if fields.iter().any(|field| field.is_required) {
                    out.push_str(",\"required\":[");
                    write_list(out, fields.iter().filter(|field| field.is_required), |out, field| {
                        write_text(out, field.name)
                    });
                    out.push(']');
                }
                out.push_str(if *is_closed { ",\"additionalProperties\":false}" } else { "}" });
            }
            Self::Enum(variants) => write_enum(out, variants),
        }
    }
}

fn write_enum(out: &mut String, variants: &[(&'static str, Variant)]) {
    let units = || variants.iter().filter(|(_, variant)| matches!(variant, Variant::Unit));
    let others = || variants.iter().filter(|(_, variant)| !matches!(variant, Variant::Unit));
    let write_units = |out: &mut String| {
        out.push_str("{\"enum\":[");
        write_list(out, units(), |out, (name, _)| write_text(out, name));
        out.push_str("]}");
    };
    if others().next().is_none() {
        return write_units(out);
    }
    out.push_str("{\"anyOf\":[");
    if units().next().is_some() {
        write_units(out);
        out.push(',');
    }
    write_list(out, others(), |out, (name, variant)| match variant {
        Variant::Value(shape) => {
            out.push_str("{\"type\":\"object\",\"properties\":{");
            write_text(out, name);
            out.push(':');
            shape.write(out);
            out.push_str("},\"required\":[");
            write_text(out, name);
            out.push_str("],\"additionalProperties\":false}");
        }
        _ => out.push_str("{}"),
    });
    out.push_str("]}");
}

fn write_list<T>(out: &mut String, items: impl IntoIterator<Item = T>, write: impl Fn(&mut String, T)) {
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Calls `inside` with the path of a part.
fn within<R>(path: &mut String, name: &str, inside: impl FnOnce(&mut String) -> R) -> R {
    let length = path.len();
    path.push('/');
    path.push_str(name);
    let result = inside(path);
    path.truncate(length);
    result
}
