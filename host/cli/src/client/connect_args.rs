//! The options of every command that connects as a client: where to, and with which key.

use std::path::PathBuf;
use tokio_tungstenite::tungstenite::http::Uri;

/// The options of a command that connects to a server.
#[derive(clap::Args, Clone, Debug)]
pub struct ConnectArgs {
    /// The server's WebSocket URL, such as ws://127.0.0.1:8080/v2/realtime
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub url: String,
    /// A file that contains the API key [default: the key in SWITCHYARD_KEY]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// PEM certificates to trust instead of the public authorities: an authority's, or the server's own
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

fn parse_url(text: &str) -> Result<String, String> {
    let is_valid = text.parse::<Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("ws" | "wss")) && url.host().is_some_and(|host| !host.is_empty())
    });
    match is_valid {
        true => Ok(text.to_owned()),
        false => Err("expected a WebSocket URL such as ws://127.0.0.1:8080/v2/realtime".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_websocket_urls_are_accepted() {
        for good in ["ws://127.0.0.1:8080/v2/realtime", "wss://example.org", "ws://[::1]:8080/"] {
            assert_eq!(parse_url(good).unwrap(), good);
        }
        for bad in ["http://127.0.0.1:8080/", "127.0.0.1:8080", "ws://", ""] {
            assert!(parse_url(bad).unwrap_err().contains("such as ws://"), "{bad}");
        }
    }
}
