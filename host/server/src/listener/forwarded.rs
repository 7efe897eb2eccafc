//! The headers `X-Forwarded-For` and `Forwarded` (RFC 7239): finds the client in the list of those through
//! whose hands a request went. Does not decide which peers are believed.
//!
//! Each proxy appends the address from which it got the request, so only the end of the list is known to be
//! true: what is left of the first address that is not a trusted proxy may have been written by the client. The
//! list is therefore read from right to left, and nothing that a client wrote is looked at, not even to find out
//! where an element begins.

use crate::limits::ProxyHeader;
use axum::http::{HeaderMap, HeaderName, header};
use std::{
    iter,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many elements of the list are read.
const MAX_HOPS: usize = 32;
/// Maximum length of the text of an address, in bytes. The longest IPv6 address has 45, and may have a zone, a
/// port and brackets.
const MAX_ADDRESS_BYTES: usize = 80;

/// The address of the client, as a trusted peer names it: the last one in the list that is not a trusted proxy.
/// If the list ends before, or has an element that is not an address, the last proxy that is known counts as
/// the client. The port is 0 where it is not known.
pub(super) fn client(
    header: ProxyHeader,
    headers: &HeaderMap,
    peer: SocketAddr,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> SocketAddr {
    let (name, parse) = match header {
        ProxyHeader::XForwardedFor => (X_FORWARDED_FOR, parse_address as fn(&[u8]) -> _),
        ProxyHeader::Forwarded => (header::FORWARDED, parse_element as _),
        ProxyHeader::Proxy => return peer,
    };
    let lines = headers.get_all(name).iter().rev();
    let hops = lines.flat_map(|line| split_backwards(line.as_bytes(), b',')).take(MAX_HOPS);
    let mut client = peer;
    for hop in hops {
        let Some(address) = parse(hop) else { break };
        client = address;
        if !is_trusted(address.ip()) {
            break;
        }
    }
    client
}

/// The parts of a list, from right to left. A separator within a quoted string does not count.
fn split_backwards(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    iter::from_fn(move || {
        let text = rest?;
        let (mut is_quoted, mut backslashes) = (false, 0);
        // The byte after the one that is looked at, if that is a quotation mark: whether it is escaped depends on
        // the number of backslashes before it.
        let mut mark = false;
        for at in (0..text.len()).rev() {
            let byte = text[at];
            if mark && byte == b'\\' {
                backslashes += 1;
                continue;
            }
            if mark && backslashes % 2 == 0 {
                is_quoted = !is_quoted;
            }
            (mark, backslashes) = (byte == b'"', 0);
            if byte == separator && !is_quoted {
                rest = Some(&text[..at]);
                return Some(&text[at + 1..]);
            }
        }
        rest = None;
        Some(text)
    })
}

/// The address in an element of `Forwarded`, such as `for="[2001:db8::1]:4711";proto=https`. `None`: there is
/// none, because the proxy does not know or does not tell it, or the element is malformed.
fn parse_element(element: &[u8]) -> Option<SocketAddr> {
    let mut found = None;
    // Pairs may be empty.
    for pair in split_backwards(element, b';').filter(|pair| !pair.trim_ascii().is_empty()) {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    match value.strip_prefix(b"\"") {
        Some(quoted) => parse_address(&unescape(quoted.strip_suffix(b"\"")?)),
        None => parse_address(value),
    }
}

/// A quoted string without the backslashes that escape characters.
fn unescape(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = quoted.iter().copied();
    let next = || match bytes.next()? {
        b'\\' => bytes.next(),
        byte => Some(byte),
    };
    iter::from_fn(next).collect()
}

/// Parses an address that may have a port, and an IPv6 address that may have brackets and a zone.
fn parse_address(text: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(text.trim_ascii()).ok().filter(|text| text.len() <= MAX_ADDRESS_BYTES)?;
    let (ip, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            (parse_ipv6(ip)?, port)
        }
        None => match text.split_once(':') {
            None => (text.parse().ok()?, None),
            Some((_, rest)) if rest.contains(':') => (parse_ipv6(text)?, None),
            Some((ip, port)) => (IpAddr::V4(ip.parse().ok()?), Some(port)),
        },
    };
    let port = match port {
        None => 0,
        // RFC 7239 lets a proxy hide the port.
        Some(port) if port.starts_with('_') => 0,
        Some(port) => port.parse().ok()?,
    };
    Some((ip.to_canonical(), port).into())
}

/// Parses an IPv6 address, and drops its zone: that names an interface of the proxy.
fn parse_ipv6(text: &str) -> Option<IpAddr> {
    let ip = text.split_once('%').map_or(text, |(ip, _)| ip);
    ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    /// The client that these lines of a header name, if the proxies are 10.0.0.0/8 and 2001:db8:10::/48.
    fn named(header: ProxyHeader, lines: &[&str]) -> String {
        let name = match header {
            ProxyHeader::Forwarded => header::FORWARDED,
            _ => X_FORWARDED_FOR,
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-real-ip", HeaderValue::from_static("198.51.100.66"));
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let is_trusted = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets()[0] == 10,
            IpAddr::V6(ip) => ip.segments()[..3] == [0x2001, 0xdb8, 0x10],
        };
        client(header, &headers, "10.0.0.1:5000".parse().unwrap(), is_trusted).to_string()
    }

    const PEER: &str = "10.0.0.1:5000";

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_proxy() {
        let named = |lines: &[&str]| named(ProxyHeader::XForwardedFor, lines);
        for (lines, expected) in [
            (&["203.0.113.9"][..], "203.0.113.9:0"),
            (&["198.51.100.1, 203.0.113.9"], "203.0.113.9:0"),
            (&["198.51.100.1", "203.0.113.9"], "203.0.113.9:0"),
            (&["198.51.100.1, 203.0.113.9,10.0.0.2 ,\t10.0.0.3"], "203.0.113.9:0"),
            (&["198.51.100.1, 203.0.113.9", "10.0.0.2", "10.0.0.3"], "203.0.113.9:0"),
            (&["203.0.113.9:4711"], "203.0.113.9:4711"),
            (&["2001:db8::1"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]:4711, 2001:db8:10::5"], "[2001:db8::1]:4711"),
            (&["fe80::1%eth0"], "[fe80::1]:0"),
            (&["::ffff:203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9:0"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3:0"),
            (&["nonsense \", 203.0.113.9"], "203.0.113.9:0"),
            (&["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2:0"),
            (&["198.51.100.1, , 10.0.0.2"], "10.0.0.2:0"),
        ] {
            assert_eq!(named(lines), expected, "{lines:?}");
        }
        for unknown in [
            "",
            ",",
            "unknown",
            "203.0.113.9,",
            "203.0.113.9 198.51.100.1",
            "203.0.113.009",
            "203.0.113.9:99999",
            "203.0.113.9:",
            "[2001:db8::1",
            "[2001:db8::1]4711",
            "[203.0.113.9]:80",
            "for=203.0.113.9",
            "2001:db8::1::2",
        ] {
            assert_eq!(named(&[unknown]), PEER, "{unknown:?}");
        }
        assert_eq!(named(&[]), PEER, "without the header");
        let long = format!("fe80::1%{}", "x".repeat(200));
        assert_eq!(named(&[&long]), PEER);
    }

    #[test]
    fn forwarded_has_parameters_quotes_and_names_that_hide_an_address() {
        let named = |lines: &[&str]| named(ProxyHeader::Forwarded, lines);
        for (lines, expected) in [
            (&["for=203.0.113.9"][..], "203.0.113.9:0"),
            (&["proto=https; For=\"203.0.113.9:4711\" ;by=10.0.0.1"], "203.0.113.9:4711"),
            (&["for=\"[2001:db8::1]:4711\""], "[2001:db8::1]:4711"),
            (&["for=\"[2001:db8::1]\";proto=http, for=10.0.0.2"], "[2001:db8::1]:0"),
            (&["for=\"203.0.113.9:_hidden\""], "203.0.113.9:0"),
            (&["for=203.0.113.9;by=x;"], "203.0.113.9:0"),
            (&[";for=203.0.113.9;;proto=http"], "203.0.113.9:0"),
            (&["for=\"\\2\\03.0.113.9\""], "203.0.113.9:0"),
            (&["for=198.51.100.1", "for=203.0.113.9;host=\"a,b;c\\\"d\\\\\", for=10.0.0.2"], "203.0.113.9:0"),
            (&["for=198.51.100.1, for=unknown, for=10.0.0.2"], "10.0.0.2:0"),
            (&["for=198.51.100.1, for=_gazonk, for=10.0.0.2"], "10.0.0.2:0"),
            (&["for=198.51.100.1, proto=https, for=10.0.0.2"], "10.0.0.2:0"),
            // Whatever a client writes before, the element of the proxy counts.
            (&["for=\"198.51.100.1, for=203.0.113.9"], "203.0.113.9:0"),
            (&["for=198.51.100.1;host=\"\\\", for=203.0.113.9"], "203.0.113.9:0"),
            (&["\\\\\", for=\"[2001:db8::1]\""], "[2001:db8::1]:0"),
        ] {
            assert_eq!(named(lines), expected, "{lines:?}");
        }
        for unknown in [
            "",
            "203.0.113.9",
            "for=",
            "for",
            "for=\"203.0.113.9",
            "for=203.0.113.9;for=198.51.100.1",
            "for=203.0.113.9;secret",
            "for=unknown",
            "for=\"_a\"",
            "for=\"203.0.113.9\\\"\"",
        ] {
            assert_eq!(named(&[unknown]), PEER, "{unknown:?}");
        }
    }

    #[test]
    fn nothing_that_a_client_writes_changes_how_the_element_of_its_proxy_is_read() {
        let parts = [",", "\"", "\\", ";", "=", "for=", "[", " ", "198.51.100.1"];
        for n in 0..parts.len().pow(4) {
            let chosen = (0..4).map(|digit| parts[n / parts.len().pow(digit) % parts.len()]);
            let written: String = chosen.collect();
            let list = format!("{written}, 203.0.113.9");
            assert_eq!(named(ProxyHeader::XForwardedFor, &[&list]), "203.0.113.9:0", "{list}");
            let list = format!("{written}, for=\"[2001:db8::1]:80\", for=10.0.0.2");
            assert_eq!(named(ProxyHeader::Forwarded, &[&list]), "[2001:db8::1]:80", "{list}");
        }
    }

    #[test]
    fn a_list_without_end_is_read_up_to_a_limit() {
        let list = format!("203.0.113.9{}", ", 10.0.0.2".repeat(MAX_HOPS - 1));
        assert_eq!(named(ProxyHeader::XForwardedFor, &[&list]), "203.0.113.9:0");
        let longer = format!("203.0.113.9, 10.0.0.3{}", ", 10.0.0.2".repeat(MAX_HOPS - 1));
        assert_eq!(named(ProxyHeader::XForwardedFor, &[&longer]), "10.0.0.3:0");
    }

    #[test]
    fn each_header_is_read_only_if_it_is_the_configured_one() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.9"));
        let peer: SocketAddr = PEER.parse().unwrap();
        for header in [ProxyHeader::Forwarded, ProxyHeader::Proxy] {
            assert_eq!(client(header, &headers, peer, |_| true), peer);
        }
    }
}
