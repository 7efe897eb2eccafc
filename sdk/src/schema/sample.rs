//! Reading one sample: a deserializer that gives a type whatever it asks for, and notes what that was.

use super::shape::{Shape, Variant};
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use std::fmt::{self, Display};

/// How deep a sample is at most. Deeper lists and options are empty.
const MAX_DEPTH: usize = 6;

/// What a sample contains. A path is the names of fields and variants, each after a `/`.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// The fields that it lacks.
    pub omitted: Vec<String>,
    /// The variants of the enums at these paths, where it is not the first. The last one for a path counts.
    pub variants: Vec<(String, usize)>,
    /// The object with an unknown field.
    pub unknown: Option<String>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Read,
    MissingField(&'static str),
    UnknownField,
    /// The type rejects the sample, because of the field at this path.
    Rejected(Option<String>),
}

/// The number of the variant that the enum at this path has.
pub(super) fn planned_variant(planned: &[(String, usize)], path: &str) -> usize {
    planned.iter().rev().find(|(planned, _)| planned == path).map_or(0, |(_, index)| *index)
}

pub(super) fn read_sample<T: DeserializeOwned>(plan: &Plan) -> (Shape, Outcome) {
    let (mut shape, mut reading) =
        (Shape::Any, Reading { plan, path: String::new(), rejected: None, depth: 0 });
    let outcome = match T::deserialize(Sample { shape: &mut shape, reading: &mut reading }) {
        Ok(_) => Outcome::Read,
        Err(Error::MissingField(name)) => Outcome::MissingField(name),
        Err(Error::UnknownField) => Outcome::UnknownField,
        Err(Error::Rejected) => Outcome::Rejected(reading.rejected),
    };
    (shape, outcome)
}

/// Where in the sample the type is reading.
struct Reading<'a> {
    plan: &'a Plan,
    path: String,
    rejected: Option<String>,
    depth: usize,
}

impl Reading<'_> {
    fn omits(&self, name: &str) -> bool {
        let is_path = |omitted: &String| {
            omitted.strip_suffix(name).and_then(|path| path.strip_suffix('/')) == Some(&*self.path)
        };
        self.plan.omitted.iter().any(is_path)
    }
}

/// A value of the sample. What the type asks for goes into `shape`.
struct Sample<'a, 'p> {
    shape: &'a mut Shape,
    reading: &'a mut Reading<'p>,
}

#[derive(Debug)]
enum Error {
    MissingField(&'static str),
    UnknownField,
    Rejected,
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sample is rejected")
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: Display>(_: T) -> Self {
        Self::Rejected
    }

    fn missing_field(field: &'static str) -> Self {
        Self::MissingField(field)
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self::UnknownField
    }
}

/// Methods for types that read a single value.
macro_rules! values {
    ($($method:ident: $shape:expr, $visit:ident($($value:expr)?);)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.shape = $shape;
            visitor.$visit($($value)?)
        })+
    };
}

impl<'de> Deserializer<'de> for Sample<'_, '_> {
    type Error = Error;

    values! {
        deserialize_bool: Shape::Bool, visit_bool(false);
        deserialize_i8: Shape::Integer(Some(i8::MIN.into()), Some(i8::MAX.into())), visit_i8(1);
        deserialize_i16: Shape::Integer(Some(i16::MIN.into()), Some(i16::MAX.into())), visit_i16(1);
        deserialize_i32: Shape::Integer(Some(i32::MIN.into()), Some(i32::MAX.into())), visit_i32(1);
        deserialize_i64: Shape::Integer(None, None), visit_i64(1);
        deserialize_u8: Shape::Integer(Some(0), Some(u8::MAX.into())), visit_u8(1);
        deserialize_u16: Shape::Integer(Some(0), Some(u16::MAX.into())), visit_u16(1);
        deserialize_u32: Shape::Integer(Some(0), Some(u32::MAX.into())), visit_u32(1);
        deserialize_u64: Shape::Integer(Some(0), None), visit_u64(1);
        deserialize_f32: Shape::Number, visit_f32(1.0);
        deserialize_f64: Shape::Number, visit_f64(1.0);
        deserialize_char: Shape::String, visit_char('a');
        deserialize_str: Shape::String, visit_str("a");
        deserialize_string: Shape::String, visit_str("a");
        deserialize_identifier: Shape::String, visit_str("a");
        deserialize_unit: Shape::Null, visit_unit();
        deserialize_any: Shape::Any, visit_unit();
        deserialize_ignored_any: Shape::Any, visit_unit();
        deserialize_bytes: Shape::Any, visit_bytes(&[]);
        deserialize_byte_buf: Shape::Any, visit_bytes(&[]);
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.shape = Shape::Optional(Box::default());
        let Shape::Optional(shape) = self.shape else { unreachable!("it was just set") };
        if self.reading.depth >= MAX_DEPTH {
            return visitor.visit_none();
        }
        visitor.visit_some(Sample { shape, reading: self.reading })
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.shape = Shape::List(Box::default());
        let Shape::List(shape) = self.shape else { unreachable!("it was just set") };
        let left = usize::from(self.reading.depth < MAX_DEPTH);
        visitor.visit_seq(Items { shape, reading: self.reading, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        // Its items may differ.
        *self.shape = Shape::List(Box::default());
        visitor.visit_seq(Items { shape: &mut Shape::Any, reading: self.reading, left: len })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.shape = Shape::Map(Box::default());
        let Shape::Map(shape) = self.shape else { unreachable!("it was just set") };
        let left = usize::from(self.reading.depth < MAX_DEPTH);
        visitor.visit_map(Entries { shape, reading: self.reading, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.shape = Shape::object(fields);
        visitor.visit_map(Fields { shape: self.shape, reading: self.reading, next: 0, has_unknown: false })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.shape = Shape::Enum(variants.iter().map(|name| (*name, Variant::Unknown)).collect());
        let Shape::Enum(known) = self.shape else { unreachable!("it was just set") };
        let index = planned_variant(&self.reading.plan.variants, &self.reading.path);
        let (name, variant) = known.get_mut(index).ok_or(Error::Rejected)?;
        visitor.visit_enum(ChosenVariant { name, variant, reading: self.reading })
    }
}

/// Reads a part of the sample. Notes where it was when the type rejected something.
fn read<'de, S: DeserializeSeed<'de>>(
    seed: S,
    name: &str,
    shape: &mut Shape,
    reading: &mut Reading<'_>,
) -> Result<S::Value, Error> {
    let length = reading.path.len();
    if !name.is_empty() {
        reading.path.push('/');
        reading.path.push_str(name);
    }
    reading.depth += 1;
    let value = seed.deserialize(Sample { shape, reading });
    reading.depth -= 1;
    if matches!(value, Err(Error::Rejected)) && reading.rejected.is_none() && !name.is_empty() {
        reading.rejected = Some(reading.path.clone());
    }
    reading.path.truncate(length);
    value
}

struct Items<'a, 'p> {
    shape: &'a mut Shape,
    reading: &'a mut Reading<'p>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        read(seed, "", self.shape, self.reading).map(Some)
    }
}

struct Entries<'a, 'p> {
    shape: &'a mut Shape,
    reading: &'a mut Reading<'p>,
    left: usize,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        read(seed, "", &mut Shape::Any, self.reading).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        read(seed, "", self.shape, self.reading)
    }
}

struct Fields<'a, 'p> {
    /// An object.
    shape: &'a mut Shape,
    reading: &'a mut Reading<'p>,
    next: usize,
    has_unknown: bool,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Shape::Object { fields, .. } = &*self.shape else { return Ok(None) };
        while let Some(field) = fields.get(self.next) {
            self.next += 1;
            if !self.reading.omits(field.name) {
                let name: StrDeserializer<'_, Error> = field.name.into_deserializer();
                return seed.deserialize(name).map(Some);
            }
        }
        if self.reading.plan.unknown.as_ref() == Some(&self.reading.path) && !self.has_unknown {
            self.has_unknown = true;
            let name: StrDeserializer<'_, Error> = "an unknown field".into_deserializer();
            return seed.deserialize(name).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Shape::Object { fields, .. } = &mut *self.shape else { return Err(Error::Rejected) };
        if self.has_unknown {
            return read(seed, "", &mut Shape::Any, self.reading);
        }
        let field = fields.get_mut(self.next - 1).ok_or(Error::Rejected)?;
        read(seed, field.name, &mut field.shape, self.reading)
    }
}

struct ChosenVariant<'a, 'p> {
    name: &'static str,
    variant: &'a mut Variant,
    reading: &'a mut Reading<'p>,
}

impl<'de> EnumAccess<'de> for ChosenVariant<'_, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl ChosenVariant<'_, '_> {
    /// Reads the variant's value.
    fn read_value<R>(self, read: impl FnOnce(Sample<'_, '_>) -> Result<R, Error>) -> Result<R, Error> {
        let Self { name, variant, reading } = self;
        *variant = Variant::Value(Shape::Any);
        let Variant::Value(shape) = variant else { unreachable!("it was just set") };
        let length = reading.path.len();
        reading.path.push('/');
        reading.path.push_str(name);
        let value = read(Sample { shape, reading: &mut *reading });
        reading.path.truncate(length);
        value
    }
}

impl<'de> VariantAccess<'de> for ChosenVariant<'_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        *self.variant = Variant::Unit;
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.read_value(|sample| seed.deserialize(sample))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.read_value(|sample| sample.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.read_value(|sample| sample.deserialize_struct("", fields, visitor))
    }
}
