//! Where a page comes from, as browsers say it.

use serde::Deserialize;
use url::Url;

/// As browsers write it, so that it is compared as text: scheme and host in small letters, no path, and no port that the scheme
/// has by itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(String);

impl Origin {
    pub fn is(&self, header: &str) -> bool {
        self.0 == header
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!(
                "server.origins: no browser comes from '{text}', such as from \"https://app.example.org\": {why}"
            ))
        };
        if text == "*" {
            return wrong("leave server.origins out to let in all");
        }
        // Of pages that are in a file or a sandbox.
        if text == "null" {
            return Ok(Self(text));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("it has no scheme://") };
        let Ok(url) = Url::parse(&text) else { return wrong("it is no URL") };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty()
            || rest.contains(['/', '?', '#', '@', '*', '\\'])
            || rest.contains(char::is_whitespace)
        {
            return wrong("it must be scheme, host and port alone");
        }
        match url.scheme() {
            "ws" | "wss" => wrong("pages are at http:// or https://"),
            "http" | "https" => Ok(Self(url.origin().ascii_serialization())),
            // Such as of an application with a browser inside.
            _ => Ok(Self(format!("{}://{}", scheme.to_lowercase(), rest.to_lowercase()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends_or_an_error() {
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
            let origin = Origin::try_from(text.to_owned()).unwrap_or_else(|error| panic!("{error}"));
            assert!(origin.is(header), "{text}: {origin:?}");
        }
        for (text, why) in [
            ("*", "leave server.origins out"),
            ("app.example.org", "no scheme"),
            ("https://*.example.org", "alone"),
            ("https://app.example.org/page", "alone"),
            ("https://app.example.org?x", "alone"),
            ("https://user@app.example.org", "alone"),
            ("wss://app.example.org", "http:// or https://"),
            ("https://", "it is no URL"),
            ("https://app.example.org:99999", "it is no URL"),
            ("", "no scheme"),
        ] {
            let error = Origin::try_from(text.to_owned()).unwrap_err();
            assert!(error.starts_with("server.origins: ") && error.contains(why), "{text}: {error}");
        }
    }
}
