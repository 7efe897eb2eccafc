//! `server.origins`: the pages that browsers may connect from. Does not restrict clients other than browsers.

use serde::Deserialize;
use url::Url;

/// An origin in the form in which browsers send it, so that the two can be compared as text: scheme and host
/// in lower case, without a path and without the default port of the scheme.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedOrigin(String);

impl AllowedOrigin {
    /// Whether it is the origin in this header.
    pub(super) fn matches(&self, header: &str) -> bool {
        self.0 == header
    }
}

/// A value in `server.origins` that is not an origin.
#[derive(Debug, thiserror::Error)]
#[error(
    r#"server.origins: invalid origin '{text}'; expected something like "https://app.example.org": {reason}"#
)]
pub struct InvalidOrigin {
    text: String,
    reason: &'static str,
}

impl TryFrom<String> for AllowedOrigin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, InvalidOrigin> {
        let invalid = |reason| Err(InvalidOrigin { text: text.clone(), reason });
        if text == "*" {
            return invalid("to allow all origins, remove server.origins");
        }
        // The origin of pages in files and sandboxes.
        if text == "null" {
            return Ok(Self(text));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return invalid("it has no scheme") };
        let Ok(url) = Url::parse(&text) else { return invalid("it is not a URL") };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty()
            || rest.contains(['/', '?', '#', '@', '*', '\\'])
            || rest.contains(char::is_whitespace)
        {
            return invalid("it must consist of scheme, host and port only");
        }
        match url.scheme() {
            "ws" | "wss" => invalid("the scheme of a page is http or https"),
            "http" | "https" => Ok(Self(url.origin().ascii_serialization())),
            // For example the scheme of an app with an embedded browser.
            _ => Ok(Self(format!("{}://{}", scheme.to_lowercase(), rest.to_lowercase()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_the_form_that_browsers_send_or_is_invalid() {
        for (text, header) in [
            ("https://app.example.org", "https://app.example.org"),
            ("https://app.example.org/", "https://app.example.org"),
            ("HTTPS://App.Example.ORG:443", "https://app.example.org"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("https://app.example.org:80", "https://app.example.org:80"),
            ("https://b\u{fc}cher.example", "https://xn--bcher-kva.example"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abcdef/", "chrome-extension://abcdef"),
            ("null", "null"),
        ] {
            let origin = AllowedOrigin::try_from(text.to_owned()).unwrap_or_else(|error| panic!("{error}"));
            assert!(origin.matches(header), "{text}: {origin:?}");
        }
        for (text, why) in [
            ("*", "remove server.origins"),
            ("app.example.org", "no scheme"),
            ("https://*.example.org", "only"),
            ("https://app.example.org/page", "only"),
            ("https://app.example.org?x", "only"),
            ("https://user@app.example.org", "only"),
            ("wss://app.example.org", "http or https"),
            ("https://", "it is not a URL"),
            ("https://app.example.org:99999", "it is not a URL"),
            ("", "no scheme"),
        ] {
            let error = AllowedOrigin::try_from(text.to_owned()).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("server.origins: ") && error.contains(why), "{text}: {error}");
        }
    }
}
