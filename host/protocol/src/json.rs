//! JSON that every parser takes. The grammar allows more: halves of a pair that no text has, and numbers that no number holds.

/// Objects and arrays inside one another, in `data` and in filters. Most parsers that subscribers and plugins
/// use stop at this depth (serde_json's own default is 128).
pub const MAX_DEPTH: usize = 128;

/// Bytes of a number that is below the largest of a double, whatever its digits are.
const SHORT_NUMBER: usize = 308;

/// Why valid JSON is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    Deep,
    #[error(
        "has half of a surrogate pair, which is no character: both halves are written, such as \\ud83d\\ude00"
    )]
    Surrogate,
    #[error("has a number beyond 1.8e308, which is none in most languages: write it as a string")]
    Number,
}

/// Looks through valid JSON text once.
pub fn check(text: &str) -> Result<(), Unfit> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = behind_string(bytes, at)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Unfit::Deep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => {
                let start = at - 1;
                while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                    at += 1;
                }
                if at - start > SHORT_NUMBER || matches!(bytes.get(at), Some(b'e' | b'E')) {
                    at = behind_number(text, start)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Behind the quotation mark that closes the string that goes on at `at`.
fn behind_string(bytes: &[u8], mut at: usize) -> Result<usize, Unfit> {
    while let Some(found) = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        at += found;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at += match unit(bytes, at) {
            None => 2,
            Some(0xd800..=0xdbff) => match unit(bytes, at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return Err(Unfit::Surrogate),
            },
            Some(0xdc00..=0xdfff) => return Err(Unfit::Surrogate),
            Some(_) => 6,
        };
        if at > bytes.len() {
            break;
        }
    }
    Ok(bytes.len())
}

/// What `\uXXXX` stands for there, if there is one.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

/// Behind the number that some digits at `at` belong to.
fn behind_number(text: &str, at: usize) -> Result<usize, Unfit> {
    let bytes = text.as_bytes();
    let is_other = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let start = bytes[..at].iter().rposition(is_other).map_or(0, |before| before + 1);
    let end = bytes[at..].iter().position(is_other).map_or(bytes.len(), |length| at + length);
    match text[start..end].parse().is_ok_and(f64::is_infinite) {
        true => Err(Unfit::Number),
        false => Ok(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded_and_strings_do_not_count() {
        let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
        assert_eq!(check(&deep), Err(Unfit::Deep));
        assert_eq!(check(&deep[1..257]), Ok(()));
        assert_eq!(check(&format!(r#"["{}\"["]"#, "[".repeat(200))), Ok(()));
    }

    #[test]
    fn half_of_a_pair_is_found_wherever_it_is() {
        for good in [
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00\u0041\n""#,
            r#""\\ud800""#,
            r#""\\\\ud800""#,
            r#"{"\u00e9":"\"\ud7ff\ue000"}"#,
            "\"😀\"",
            r#"["\\","\""]"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
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
            assert_eq!(check(bad), Err(Unfit::Surrogate), "{bad}");
        }
    }

    #[test]
    fn a_number_that_no_double_holds_is_found() {
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
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["1e400", "1.5e400", "0.5e310", "-1e400", "[0,1E+309]", r#"{"a":{"b":-2e308}}"#, &digits] {
            assert_eq!(check(bad), Err(Unfit::Number), "{bad}");
        }
    }
}
