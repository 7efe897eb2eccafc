//! Removes passwords from error messages: a value that is shown may be a URL with a password, in the wrong
//! place. Does not know which key the value belongs to.

use std::ops::Range;

/// The message, in which every URL that may contain a secret is reduced to its scheme. Anything else is left
/// unchanged.
pub(super) fn redact_urls(message: &str) -> String {
    let (mut redacted, mut rest) = (String::new(), message);
    while let Some(at) = rest.find("://") {
        let after = at + "://".len();
        let (scheme, range) = (scheme(&rest[..at]), url_range(rest, at));
        let url = &rest[range.clone()];
        let is_harmless = !scheme.contains("redis") && !url.contains(['@', '?']);
        if is_harmless || url.is_empty() || url == "…" {
            redacted.push_str(&rest[..range.end]);
        } else {
            redacted.push_str(&rest[..after]);
            redacted.push('…');
        }
        rest = &rest[range.end..];
    }
    redacted + rest
}

/// The scheme at the end of what precedes `://`.
fn scheme(before: &str) -> &str {
    let is_scheme_char = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    &before[before.trim_end_matches(is_scheme_char).len()..]
}

/// The rest of a URL after its `://`, which is at `at`: up to the closing quotation mark, or to a space.
fn url_range(text: &str, at: usize) -> Range<usize> {
    let start = at + "://".len();
    let (before, after) = (&text[..at], &text[start..]);
    let length = match before.strip_suffix(scheme(before)).and_then(|before| before.chars().last()) {
        // The only quotation marks that are escaped inside.
        Some('"') => find_unescaped_quote(after),
        // A password may contain these, so the last one is the closing one.
        Some(quote @ ('\'' | '`')) => after.rfind(quote),
        // It is in the middle of a value, and anything up to the end may belong to it.
        Some(c) if !c.is_whitespace() || after.contains('@') => Some(after.len()),
        _ => after.find([' ', ',']),
    };
    start..start + length.unwrap_or(after.len())
}

fn find_unescaped_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let is_closing = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_closing.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_reduced_to_its_scheme_and_the_rest_is_unchanged() {
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
            assert_eq!(redact_urls(message), expected);
        }
    }
}
