//! Portable JSON: JSON that every common parser accepts.
//!
//! The grammar of JSON allows more, which the server does not pass on to subscribers and plugins: nesting
//! without a limit, halves of surrogate pairs, which are not characters, and numbers that no double can hold.

/// The most levels of objects and arrays inside one another, in `data` and in filters. It is serde_json's
/// default limit, and other parsers have similar ones.
pub const MAX_DEPTH: usize = 128;

/// An integer of at most this many digits fits a double.
const MAX_SAFE_DIGITS: usize = 308;

/// Why valid JSON is not portable. The message follows the name of a field: `data has …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPortable {
    /// Objects and arrays are nested deeper than [`MAX_DEPTH`].
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A string contains one half of a surrogate pair, such as `\ud800`.
    #[error("has half of a surrogate pair; write both halves, as in \\ud83d\\ude00")]
    LoneSurrogate,
    /// A number is larger than a double can hold.
    #[error("has a number beyond 1.8e308, which most languages cannot represent; write it as a string")]
    HugeNumber,
}

/// Checks that JSON is portable, in one pass. `text` must be valid JSON.
///
/// # Errors
///
/// The first thing in it that is not portable.
///
/// ```
/// use switchyard_protocol::json::{NotPortable, check_portable};
///
/// assert_eq!(check_portable(r#"{"usd":3150}"#), Ok(()));
/// assert_eq!(check_portable("[1e400]"), Err(NotPortable::HugeNumber));
/// ```
pub fn check_portable(text: &str) -> Result<(), NotPortable> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = end_of_string(bytes, at)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(NotPortable::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => {
                let start = at - 1;
                while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                    at += 1;
                }
                if at - start > MAX_SAFE_DIGITS || matches!(bytes.get(at), Some(b'e' | b'E')) {
                    at = end_of_number(text, start)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the string ends whose content is at `at`: behind its closing quotation mark.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, NotPortable> {
    while let Some(found) = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        at += found;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at += match escaped_unit(bytes, at) {
            None => 2,
            Some(0xd800..=0xdbff) => match escaped_unit(bytes, at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return Err(NotPortable::LoneSurrogate),
            },
            Some(0xdc00..=0xdfff) => return Err(NotPortable::LoneSurrogate),
            Some(_) => 6,
        };
        if at > bytes.len() {
            break;
        }
    }
    Ok(bytes.len())
}

/// The UTF-16 code unit of the escape `\uXXXX` at `at`, if there is one.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

/// Where the number ends that has some of its digits at `at`.
fn end_of_number(text: &str, at: usize) -> Result<usize, NotPortable> {
    let bytes = text.as_bytes();
    let is_outside = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let start = bytes[..at].iter().rposition(is_outside).map_or(0, |before| before + 1);
    let end = bytes[at..].iter().position(is_outside).map_or(bytes.len(), |length| at + length);
    match text[start..end].parse().is_ok_and(f64::is_infinite) {
        true => Err(NotPortable::HugeNumber),
        false => Ok(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_limited_and_brackets_in_strings_do_not_count() {
        let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
        assert_eq!(check_portable(&deep), Err(NotPortable::TooDeep));
        assert_eq!(check_portable(&deep[1..257]), Ok(()));
        assert_eq!(check_portable(&format!(r#"["{}\"["]"#, "[".repeat(200))), Ok(()));
    }

    #[test]
    fn half_of_a_surrogate_pair_is_found_anywhere() {
        for good in [
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00\u0041\n""#,
            r#""\\ud800""#,
            r#""\\\\ud800""#,
            r#"{"\u00e9":"\"\ud7ff\ue000"}"#,
            "\"😀\"",
            r#"["\\","\""]"#,
        ] {
            assert_eq!(check_portable(good), Ok(()), "{good}");
            serde_json::from_str::<serde_json::Value>(good).unwrap();
        }
        for bad in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\uDFFF""#,
            r#""\ud83d\n\ude00""#,
            r#""\ud83d\ud83d\ude00""#,
            r#""\ude00\ud83d""#,
            r#"{"\ud800":1}"#,
            r#"[1,{"a":["x\\\ud800"]}]"#,
            r#""\ud800\\""#,
            r#""\ud83d\u0041""#,
        ] {
            assert_eq!(check_portable(bad), Err(NotPortable::LoneSurrogate), "{bad}");
        }
    }

    #[test]
    fn a_number_beyond_a_double_is_found() {
        let digits = "9".repeat(309);
        for good in [
            "1e308",
            "-1.7976931348623157E+308",
            "1e-400",
            "0e400",
            "0.00001e309",
            "9007199254740993",
            &digits[1..],
            "[1,2]",
            "true",
            "\"1e400\"",
        ] {
            assert_eq!(check_portable(good), Ok(()), "{good}");
        }
        for bad in ["1e400", "1.5e400", "0.5e310", "-1e400", "[0,1E+309]", r#"{"a":{"b":-2e308}}"#, &digits] {
            assert_eq!(check_portable(bad), Err(NotPortable::HugeNumber), "{bad}");
        }
    }
}
