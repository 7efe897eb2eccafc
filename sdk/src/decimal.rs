//! Decimal numbers without rounding. An `f64` rounds from its 17th digit on, so numbers that differ only
//! there would compare as equal.

use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// A number in JSON's grammar, with any number of digits, compared exactly. -0 equals 0.
///
/// As a field of a deserialized type it accepts a JSON number. [`Decimal::of`] also accepts a string that
/// contains a number, which is how many feeds write prices and sizes to keep every digit. It is serialized as
/// a JSON number, in the same text for equal numbers.
///
/// ```
/// use switchyard_sdk::Decimal;
///
/// let parse = |text| Decimal::parse(text).unwrap();
/// assert!(parse("0.1") < parse("0.10000000000000000001"));
/// assert_eq!(parse("1.50"), parse("15e-1"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    /// Orders numbers as far as 64 bits can, so that most comparisons take one step.
    rank: i64,
    is_negative: bool,
    /// The power of ten of the first nonzero digit; `i64::MIN` for 0.
    exponent: i64,
    /// The first [`HEAD_DIGITS`] significant digits, padded with zeros on the right.
    head: u64,
    /// The remaining digits in ASCII, without trailing zeros.
    tail: Vec<u8>,
}

/// The number of digits that always fit into a `u64`.
const HEAD_DIGITS: usize = 19;
/// The maximum number of digits before the decimal point that `Display` writes without an exponent.
const MAX_PLAIN_DIGITS: i64 = 21;

impl Decimal {
    /// Parses a number in JSON's grammar, with surrounding ASCII whitespace. Returns `None` for anything
    /// else, such as `.5`, `+1`, `0x10` or an empty string.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii().as_bytes();
        let (is_negative, rest) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, rest) = digits(rest)?;
        if whole.len() > 1 && whole[0] == b'0' {
            return None;
        }
        let (fraction, rest) = match rest.strip_prefix(b".") {
            Some(rest) => digits(rest)?,
            None => (&[][..], rest),
        };
        let power = match rest.split_first() {
            None => 0,
            Some((b'e' | b'E', rest)) => exponent(rest)?,
            Some(_) => return None,
        };
        let mut number = Self { rank: 0, is_negative, exponent: i64::MIN, head: 0, tail: Vec::new() };
        let mut all =
            whole.iter().chain(fraction).enumerate().skip_while(|(_, digit)| **digit == b'0').peekable();
        let Some((first, _)) = all.peek() else { return Some(Self { is_negative: false, ..number }) };
        number.exponent = (whole.len() as i64 - 1 - *first as i64).saturating_add(power);
        let mut count = 0;
        for (_, digit) in all {
            match count < HEAD_DIGITS {
                true => number.head = number.head * 10 + u64::from(digit - b'0'),
                false => number.tail.push(*digit),
            }
            count += 1;
        }
        (count..HEAD_DIGITS).for_each(|_| number.head *= 10);
        let kept = number.tail.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
        number.tail.truncate(kept);
        number.rank = rank(number.exponent, number.head) * if is_negative { -1 } else { 1 };
        Some(number)
    }

    /// Reads a JSON number, or a JSON string that contains one. Returns `None` for anything else.
    pub fn of(value: &RawValue) -> Option<Self> {
        if !value.get().starts_with('"') {
            return Self::parse(value.get());
        }
        Self::parse(&text(value)?)
    }

    /// Whether the number is less than 0.
    pub fn is_negative(&self) -> bool {
        self.is_negative
    }

    /// Whether the number is 0.
    pub fn is_zero(&self) -> bool {
        self.head == 0
    }

    /// The absolute value.
    pub fn abs(self) -> Self {
        Self { rank: self.rank.abs(), is_negative: false, ..self }
    }

    /// The significant digits without trailing zeros; at least one digit.
    fn digits(&self) -> String {
        let mut digits = format!("{:019}", self.head);
        digits.push_str(std::str::from_utf8(&self.tail).unwrap_or_default());
        digits.truncate(digits.trim_end_matches('0').len().max(1));
        digits
    }
}

/// The content of a JSON string; `None` if the value is not a string.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_slice(value.get().as_bytes()).ok().map(|Text(text)| text)
}

/// Ranks distinguish exponents between `-MAX_RANKED_EXPONENT` and `MAX_RANKED_EXPONENT`.
const MAX_RANKED_EXPONENT: i64 = 1 << 10;

/// The rank of a positive number: its exponent and the leading bits of its digits.
fn rank(exponent: i64, head: u64) -> i64 {
    if exponent >= MAX_RANKED_EXPONENT {
        return i64::MAX;
    }
    if exponent <= -MAX_RANKED_EXPONENT {
        return 1;
    }
    ((exponent + MAX_RANKED_EXPONENT) << 52) | (head >> 12) as i64
}

/// Splits `text` after its leading digits; `None` if it does not start with a digit.
fn digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The value of an exponent, without the `e`.
fn exponent(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text.split_first()? {
        (b'-', rest) => (-1, rest),
        (b'+', rest) => (1, rest),
        _ => (1, text),
    };
    let (digits, rest) = digits(rest)?;
    // Saturates far beyond the exponent of any real number.
    let power = digits.iter().fold(0i64, |power, digit| (power * 10 + i64::from(digit - b'0')).min(1 << 40));
    rest.is_empty().then_some(sign * power)
}

impl Ord for Decimal {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match self.rank == other.rank {
            true => self.cmp_digits(other),
            false => self.rank.cmp(&other.rank),
        }
    }
}

impl Decimal {
    #[cold]
    fn cmp_digits(&self, other: &Self) -> Ordering {
        let size = |number: &Self| (number.exponent, number.head);
        let by_size = || size(self).cmp(&size(other)).then_with(|| self.tail.cmp(&other.tail));
        match (self.is_negative, other.is_negative) {
            (false, false) => by_size(),
            (true, true) => by_size().reverse(),
            (is_negative, _) => {
                if is_negative {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }

    /// Filters compare with `>=`, so this is the fast path.
    #[inline]
    fn ge(&self, other: &Self) -> bool {
        self.rank > other.rank || (self.rank == other.rank && self.cmp_digits(other).is_ge())
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let (sign, digits) = (if self.is_negative { "-" } else { "" }, self.digits());
        let point = self.exponent + 1;
        match point {
            // For example 0.05.
            -5..=0 => write!(f, "{sign}0.{}{digits}", "0".repeat(-point as usize)),
            1..=MAX_PLAIN_DIGITS => match digits.split_at_checked(point as usize) {
                None | Some((_, "")) => write!(f, "{sign}{digits:0<width$}", width = point as usize),
                Some((whole, fraction)) => write!(f, "{sign}{whole}.{fraction}"),
            },
            _ => {
                let (first, rest) = digits.split_at(1);
                let point = if rest.is_empty() { "" } else { "." };
                write!(f, "{sign}{first}{point}{rest}e{}", self.exponent)
            }
        }
    }
}

impl Serialize for Decimal {
    /// Writes a JSON number with a decimal point or an exponent. Equal numbers have the same text.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut text = self.to_string();
        if !text.contains(['.', 'e']) {
            text.push_str(".0");
        }
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(from)?;
        Self::parse(value.get()).ok_or_else(|| unexpected(value, "a number"))
    }
}

/// An error such as `invalid type: string "high", expected a number`.
fn unexpected<E: Error>(value: &RawValue, expected: &str) -> E {
    let shown = text(value);
    let found = match (value.get().as_bytes().first(), &shown) {
        (_, Some(text)) => Unexpected::Str(text),
        (Some(b'{'), _) => Unexpected::Map,
        (Some(b'['), _) => Unexpected::Seq,
        (Some(b't' | b'f'), _) => Unexpected::Bool(value.get() == "true"),
        _ => Unexpected::Unit,
    };
    E::invalid_type(found, &expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn numbers_are_compared_exactly() {
        let rising = [
            "-1e300",
            "-9007199254740993",
            "-9007199254740992",
            "-1.5",
            "-1",
            "-1e-7",
            "0",
            "9e-2001",
            "1e-2000",
            "1e-400",
            "0.00000000000000000000000001",
            "0.1",
            "0.10000000000000000000000000000000001",
            "0.5",
            "1",
            "1.0000000000000000000001",
            "9.99",
            "10",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.5",
            "18446744073709551615",
            "18446744073709551616",
            "1e100",
            "1e400",
            "2e400",
            "9e2000",
            "1e2001",
        ];
        for (n, one) in rising.iter().enumerate() {
            for (m, other) in rising.iter().enumerate() {
                assert_eq!(number(one).cmp(&number(other)), n.cmp(&m), "{one} and {other}");
            }
        }
    }

    #[test]
    fn equal_numbers_are_equal_in_every_notation() {
        for same in [
            &["5", "5.0", "5e0", "0.5e1", "50E-1", " 5 ", "500000000000000000000000000000e-29"][..],
            &["0", "-0", "0.000", "0e9", "-0.0e-9"],
            &["1200", "1.2e3", "12e+2", "0.0012e6"],
            &[
                "123456789012345678901234567890",
                "1.2345678901234567890123456789e29",
                "123456789012345678901234567890.000",
            ],
        ] {
            for text in same {
                assert_eq!(number(text), number(same[0]), "{text}");
                assert_eq!(
                    serde_json::to_string(&number(text)).unwrap(),
                    serde_json::to_string(&number(same[0])).unwrap()
                );
            }
        }
    }

    #[test]
    fn text_that_is_not_a_number_is_none() {
        for bad in [
            "", " ", ".5", "5.", "+5", "-", "--5", "05", "1e", "1e+", "1.e5", "inf", "NaN", "0x10", "1,5",
            "1 2", "abc", "٣",
        ] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn displayed_and_serialized_numbers_can_be_read_back() {
        for (text, shown, json) in [
            ("5", "5", "5.0"),
            ("-0.050", "-0.05", "-0.05"),
            ("1e3", "1000", "1000.0"),
            ("1.5e30", "1.5e30", "1.5e30"),
            ("2e-9", "2e-9", "2e-9"),
            ("1250000.5", "1250000.5", "1250000.5"),
            ("0", "0", "0.0"),
            ("9007199254740993", "9007199254740993", "9007199254740993.0"),
            ("1e400", "1e400", "1e400"),
        ] {
            assert_eq!(number(text).to_string(), shown);
            assert_eq!(serde_json::to_string(&number(text)).unwrap(), json);
            assert_eq!(serde_json::from_str::<Decimal>(json).unwrap(), number(text));
        }
        let error = serde_json::from_str::<Vec<Decimal>>(r#"[1,"high"]"#).unwrap_err().to_string();
        assert!(error.starts_with("invalid type: string \"high\", expected a number"), "{error}");
    }
}
