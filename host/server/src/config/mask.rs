//! What an error may show of the values it is about: a URL in the wrong place may carry a password.

use std::ops::Range;

/// The message with every URL that may carry a secret cut down to its scheme, wherever it was written.
pub(super) fn masked(message: &str) -> String {
    let (mut shown, mut rest) = (String::new(), message);
    while let Some(at) = rest.find("://") {
        let behind = at + "://".len();
        let (scheme, secret) = (scheme(&rest[..at]), extent(rest, at));
        let url = &rest[secret.clone()];
        let is_open = !scheme.contains("redis") && !url.contains(['@', '?']);
        if is_open || url.is_empty() || url == "…" {
            shown.push_str(&rest[..secret.end]);
        } else {
            shown.push_str(&rest[..behind]);
            shown.push('…');
        }
        rest = &rest[secret.end..];
    }
    shown + rest
}

fn scheme(before: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    &before[before.trim_end_matches(is_part).len()..]
}

/// Where the URL whose `://` is there goes on behind it: up to the quotation mark that closes what it stands in, or to a space.
fn extent(text: &str, at: usize) -> Range<usize> {
    let start = at + "://".len();
    let (before, behind) = (&text[..at], &text[start..]);
    let length = match before.strip_suffix(scheme(before)).and_then(|before| before.chars().last()) {
        // Only these are escaped inside.
        Some('"') => unescaped_quote(behind),
        // A password may hold one of these, so it is the last of them that closes.
        Some(quote @ ('\'' | '`')) => behind.rfind(quote),
        // It stands in the middle of something, and anything up to the end may belong to it.
        Some(c) if !c.is_whitespace() || behind.contains('@') => Some(behind.len()),
        _ => behind.find([' ', ',']),
    };
    start..start + length.unwrap_or(behind.len())
}

fn unescaped_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        closes.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_its_scheme_and_the_rest_of_the_message_stays() {
        for (message, expected) in [
            ("no URL at all", "no URL at all"),
            (r#"string "redis://:s3cret@h:1", expected"#, r#"string "redis://…", expected"#),
            (r#"string "redis://:s3\"cret@h", expected"#, r#"string "redis://…", expected"#),
            (r#"string "redis://:s3cret@h\\", "wss://u:s3cret@h"."#, r#"string "redis://…", "wss://…"."#),
            ("store.prefix 'redis://:s3'cret@h' is none", "store.prefix 'redis://…' is none"),
            ("`redis-sentinel://h?sentinelPassword=s3cret` is not", "`redis-sentinel://…` is not"),
            ("'x redis://:s3 cret@h' is none", "'x redis://…"),
            ("'x=redis://:s3 cret@h' is none", "'x=redis://…"),
            ("it is memory, redis://, rediss://", "it is memory, redis://, rediss://"),
            ("'mongo://…' is not known; it is redis://", "'mongo://…' is not known; it is redis://"),
            ("'https://example.org' is none", "'https://example.org' is none"),
        ] {
            assert_eq!(masked(message), expected);
        }
    }
}
