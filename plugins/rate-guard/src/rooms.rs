//! Patterns of room names, as the operator's configuration has them.

/// Whether a room's name matches a valid pattern: `*` stands for any rest of a part, `**` at the end for
/// any rest at all. In any case.
pub(crate) fn matches(pattern: &str, room: &str) -> bool {
    let Some(star) = pattern.find('*') else { return pattern.eq_ignore_ascii_case(room) };
    let (literal, after) = (&pattern[..star], &pattern[star + 1..]);
    if !room.get(..star).is_some_and(|start| start.eq_ignore_ascii_case(literal)) {
        return false;
    }
    let rest = &room[star..];
    match after {
        "*" => !rest.is_empty() || !(literal.is_empty() || literal.ends_with(':')),
        after => matches(after, &rest[rest.find(':').unwrap_or(rest.len())..]),
    }
}

/// Whether a text is a pattern.
pub(crate) fn is_pattern(text: &str) -> bool {
    let open = text.strip_suffix("**");
    let parts: Vec<_> = open.unwrap_or(text).split(':').collect();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    parts.iter().enumerate().all(|(n, part)| {
        let last_is_open = open.is_some() && n + 1 == parts.len();
        let literal = part.strip_suffix('*').unwrap_or(part);
        let is_ambiguous = last_is_open && part.ends_with('*');
        literal.bytes().all(is_allowed) && !is_ambiguous && (!part.is_empty() || last_is_open)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_host() {
        for (pattern, room, expected) in [
            ("trades", "Trades", true),
            ("trades", "trades2", false),
            ("dydx:*", "DYDX:eth-usd", true),
            ("dydx:*", "dydx:a:b", false),
            ("dydx:*", "dydx", false),
            ("dydx:eth*", "dydx:eth-usd", true),
            ("liquidations:*:aave-v3", "liquidations:base:aave-v3", true),
            ("liquidations:*:aave-v3", "liquidations:base:x:aave-v3", false),
            ("dydx:**", "dydx:a:b", true),
            ("dydx:**", "dydx", false),
            ("**", "any:thing", true),
        ] {
            assert!(is_pattern(pattern), "{pattern}");
            assert_eq!(matches(pattern, room), expected, "{pattern} {room}");
        }
        for bad in ["", "a::b", "a*b", "**:a", "a:", "a b", "***", "@acme"] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }
}
