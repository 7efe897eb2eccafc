//! When a certificate is valid: the only part of it that is read here. rustls does not check it for its own
//! certificate.

use std::fmt;

/// The time in which a certificate is valid, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Validity {
    /// The first second.
    pub from: i64,
    /// The second in which it expires.
    pub until: i64,
}

impl Validity {
    /// The validity of a certificate in DER; `None` if it is not a certificate.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = Element::read(&mut &*certificate, SEQUENCE)?;
        let mut signed = Element::read(&mut &*certificate, SEQUENCE)?;
        // The version, unless it is 1; then serial number, algorithm and issuer.
        if signed.first() == Some(&VERSION) {
            Element::read(&mut signed, VERSION)?;
        }
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            Element::read(&mut signed, tag)?;
        }
        let mut validity = Element::read(&mut signed, SEQUENCE)?;
        Some(Self { from: read_time(&mut validity)?, until: read_time(&mut validity)? })
    }

    /// When both certificates are valid.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// Why the certificate is not valid at this time; `None` if it is.
    pub(crate) fn problem(&self, now: i64) -> Option<String> {
        match now {
            now if now >= self.until => Some(format!("the certificate expired at {}", Time(self.until))),
            now if now < self.from => {
                Some(format!("the certificate is not valid before {}", Time(self.from)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "valid until {}", Time(self.until))
    }
}

/// A time in Unix seconds, displayed as `2027-01-01T00:00:00Z`.
struct Time(i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(SECONDS_PER_DAY));
        let second = self.0.rem_euclid(SECONDS_PER_DAY);
        write!(f, "{year:04}-{month:02}-{day:02}T")?;
        write!(f, "{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }
}

// Tags of ASN.1 in DER.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

const SECONDS_PER_DAY: i64 = 86_400;

/// An element of DER: tag, length and content.
struct Element;

impl Element {
    /// Reads the next element, which must have this tag, and returns its content.
    fn read<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = from.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x84 => {
                let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        *from = rest;
        (found == tag).then_some(content)
    }
}

/// Reads a time: `YYMMDDHHMMSSZ`, or the same with a year of four digits (RFC 5280, section 4.1.2.5).
fn read_time(from: &mut &[u8]) -> Option<i64> {
    let tag = *from.first()?;
    let text = Element::read(from, tag)?;
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = digits.split_at(2);
            (number(year) + if number(year) < 50 { 2000 } else { 1900 }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = digits.split_at(4);
            (number(year), rest)
        }
        _ => return None,
    };
    let parts: Vec<_> = rest.chunks(2).map(number).collect();
    let [month @ 1..=12, day @ 1..=31, hour @ 0..=23, minute @ 0..=59, second @ 0..=60] = parts[..] else {
        return None;
    };
    Some(days_since_1970(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second)
}

/// The number of days from 1970-01-01 to a date. Counts years from March, so that a leap day is the last day
/// of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    before + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The inverse: year, month and day.
fn date(days: i64) -> (i64, i64, i64) {
    // The average length of years is off by up to a year.
    let estimate = 1970 + days.div_euclid(365);
    let year = (estimate - days.abs() / 365 / 365 - 2..=estimate + 1)
        .rev()
        .find(|year| days_since_1970(*year, 1, 1) <= days);
    let year = year.unwrap_or(estimate);
    let month = (1..=12).rev().find(|month| days_since_1970(year, *month, 1) <= days).unwrap_or(1);
    (year, month, days - days_since_1970(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_displayed() {
        for (text, shown, at) in [
            ("700101000000Z", "1970-01-01T00:00:00Z", 0),
            ("491231235959Z", "2049-12-31T23:59:59Z", 2_524_607_999),
            ("500101000000Z", "1950-01-01T00:00:00Z", -631_152_000),
            ("240229120000Z", "2024-02-29T12:00:00Z", 1_709_208_000),
            ("20991231235959Z", "2099-12-31T23:59:59Z", 4_102_444_799),
            ("99991231235959Z", "9999-12-31T23:59:59Z", 253_402_300_799),
            ("40960101000000Z", "4096-01-01T00:00:00Z", 67_090_118_400),
        ] {
            let tag = if text.len() == 13 { UTC_TIME } else { GENERALIZED_TIME };
            let der = [&[tag, text.len() as u8][..], text.as_bytes()].concat();
            assert_eq!(read_time(&mut &der[..]), Some(at), "{text}");
            assert_eq!(Time(at).to_string(), shown);
        }
        for bad in ["", "700101000000", "701301000000Z", "70010100000Z", "70010100000xZ"] {
            let der = [&[UTC_TIME, bad.len() as u8][..], bad.as_bytes()].concat();
            assert_eq!(read_time(&mut &der[..]), None, "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_not_a_certificate_have_no_validity() {
        for bad in
            [&b""[..], b"\x30", b"\x30\x82", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00", &[0x30; 100]]
        {
            assert_eq!(Validity::of(bad), None);
        }
    }
}
