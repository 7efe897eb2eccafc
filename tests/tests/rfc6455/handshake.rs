//! Sections 4.1 to 4.4, and the lists of RFC 9110: which requests become a WebSocket, and how the server
//! answers the others.

use super::line::{Got, Line, connect};
use std::time::Duration;
use tokio::time::timeout;

pub struct Handshake {
    pub name: String,
    pub section: &'static str,
    pub request: String,
    pub status: u16,
    /// What the head of the answer must contain, in lower case.
    pub has: Vec<&'static str>,
    pub lacks: Vec<&'static str>,
}

const HOST: &str = "Host: here";
const CONNECTION: &str = "Connection: Upgrade";
const UPGRADE: &str = "Upgrade: websocket";
const VERSION: &str = "Sec-WebSocket-Version: 13";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
/// The accept value for that key, from section 1.3.
const ACCEPT: &str = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";

/// A request for the WebSocket with these header lines.
fn request(lines: &[&str]) -> String {
    format!("GET /v2/realtime HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"))
}

/// The valid request, with one line replaced by others.
fn instead(of: &str, lines: &[&str]) -> String {
    let good = [HOST, CONNECTION, UPGRADE, VERSION, KEY];
    let all = good.iter().flat_map(|line| if *line == of { lines.to_vec() } else { vec![*line] });
    request(&all.collect::<Vec<_>>())
}

fn answered(section: &'static str, name: impl Into<String>, request: String, status: u16) -> Handshake {
    Handshake { name: name.into(), section, request, status, has: vec![], lacks: vec![] }
}

fn good(section: &'static str, name: &str, request: String) -> Handshake {
    let has = vec![ACCEPT, "connection: upgrade", "upgrade: websocket"];
    Handshake { has, lacks: vec!["sec-websocket-extensions"], ..answered(section, name, request, 101) }
}

/// The valid request with an additional line.
fn with(line: &str) -> String {
    instead(KEY, &[KEY, line])
}

pub fn cases() -> Vec<Handshake> {
    let mut cases = vec![
        good("4.1", "as a library sends it", request(&[HOST, CONNECTION, UPGRADE, VERSION, KEY])),
        good("4.1", "in another order", request(&[KEY, VERSION, UPGRADE, CONNECTION, HOST])),
        good(
            "4.1",
            "names in capitals",
            request(&[HOST, CONNECTION, UPGRADE, VERSION, KEY]).replace("Sec-WebSocket", "SEC-WEBSOCKET"),
        ),
        good(
            "4.1",
            "names in small letters",
            request(&[
                "host: here",
                "connection: Upgrade",
                "upgrade: websocket",
                "sec-websocket-version: 13",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            ]),
        ),
        good(
            "4.2.1",
            "a query",
            request(&[HOST, CONNECTION, UPGRADE, VERSION, KEY]).replace("realtime", "realtime?a=b&c"),
        ),
        good(
            "4.2.1",
            "spaces around values",
            instead(KEY, &["Sec-WebSocket-Key:   dGhlIHNhbXBsZSBub25jZQ==  "]),
        ),
        good("4.2.1", "no space before values", instead(HOST, &["Host:here"])),
        good("4.2.1", "a body of nothing", with("Content-Length: 0")),
        good(
            "4.1",
            "headers that nobody knows",
            with("X-Forwarded-For: 10.0.0.1\r\nCookie: a=b\r\nPragma: no-cache"),
        ),
        good("4.1", "an origin", with("Origin: https://app.example.org")),
        good("4.1", "credentials of another scheme", with("Authorization: Basic c2tfYWxs")),
        good("4.1", "the same, and a key", with("Authorization: Basic c2tfYWxs\r\nX-API-Key: sk_all")),
        good(
            "4.1",
            "the same, and a key of ours behind it",
            with("Authorization: Basic c2tfYWxs\r\nAuthorization: Bearer sk_all"),
        ),
        good("4.1", "a key", with("Authorization: bearer sk_all")),
        answered(
            "4.2.1",
            "last bits of the nonce that say nothing",
            instead(KEY, &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEB=="]),
            101,
        ),
        answered("4.2.2", "a wrong key", with("Authorization: Bearer sk_wrong"), 401),
        answered("4.2.2", "a key without its scheme", with("Authorization: sk_all"), 401),
        answered(
            "4.2.1",
            "another path",
            request(&[HOST, CONNECTION, UPGRADE, VERSION, KEY]).replace("realtime", "elsewhere"),
            404,
        ),
        answered(
            "4.2.1",
            "HTTP/1.0",
            request(&[HOST, CONNECTION, UPGRADE, VERSION, KEY]).replace("HTTP/1.1", "HTTP/1.0"),
            400,
        ),
        answered("4.2.1", "no headers at all but Host", request(&[HOST]), 400),
    ];
    for method in ["POST", "PUT", "HEAD", "DELETE", "OPTIONS"] {
        let request = request(&[HOST, CONNECTION, UPGRADE, VERSION, KEY, "Content-Length: 0"]);
        let mut case = answered("4.1", method, request.replacen("GET", method, 1), 405);
        case.has.push("allow: get");
        cases.push(case);
    }
    for (name, lines) in [
        ("keep-alive before it", &["Connection: keep-alive, Upgrade"][..]),
        ("keep-alive behind it", &["Connection: Upgrade, keep-alive"]),
        ("no spaces", &["Connection: keep-alive,Upgrade"]),
        ("tabs and spaces", &["Connection: \tkeep-alive \t, \tUpgrade "]),
        ("elements of nothing", &["Connection: , ,Upgrade,"]),
        ("small letters", &["Connection: upgrade"]),
        ("capitals", &["CONNECTION: UPGRADE"]),
        ("two lines", &["Connection: keep-alive", "Connection: Upgrade"]),
        ("two lines, the other way", &["Connection: Upgrade", "Connection: keep-alive"]),
        ("said twice", &["Connection: Upgrade, upgrade"]),
        ("another header in it", &["Connection: Upgrade, HTTP2-Settings"]),
    ] {
        cases.push(good("4.2.1", &format!("Connection with {name}"), instead(CONNECTION, lines)));
    }
    for (name, lines) in [
        ("none", &[][..]),
        ("keep-alive", &["Connection: keep-alive"]),
        ("a word that holds it", &["Connection: Upgrades"]),
        ("two words", &["Connection: not Upgrade"]),
        ("nothing", &["Connection:"]),
    ] {
        cases.push(answered("4.2.1", format!("Connection with {name}"), instead(CONNECTION, lines), 400));
    }
    for (name, lines) in [
        ("capitals", &["Upgrade: WebSocket"][..]),
        ("all capitals", &["UPGRADE: WEBSOCKET"]),
        ("a list", &["Upgrade: h2c, websocket"]),
        ("a list, the other way", &["Upgrade: websocket,h2c"]),
        ("two lines", &["Upgrade: h2c", "Upgrade: websocket"]),
    ] {
        cases.push(good("4.2.1", &format!("Upgrade with {name}"), instead(UPGRADE, lines)));
    }
    for (name, lines) in [
        ("none", &[][..]),
        ("another protocol", &["Upgrade: h2c"]),
        ("a word that holds it", &["Upgrade: websockets"]),
        ("nothing", &["Upgrade:"]),
    ] {
        cases.push(answered("4.2.1", format!("Upgrade with {name}"), instead(UPGRADE, lines), 400));
    }
    for (name, lines) in [
        ("8", &["Sec-WebSocket-Version: 8"][..]),
        ("0", &["Sec-WebSocket-Version: 0"]),
        ("14", &["Sec-WebSocket-Version: 14"]),
        ("13.0", &["Sec-WebSocket-Version: 13.0"]),
        ("013", &["Sec-WebSocket-Version: 013"]),
        ("a word", &["Sec-WebSocket-Version: thirteen"]),
        ("a list", &["Sec-WebSocket-Version: 13, 8"]),
        ("nothing", &["Sec-WebSocket-Version:"]),
        ("none", &[]),
    ] {
        let mut case = answered("4.4", format!("version {name}"), instead(VERSION, lines), 426);
        case.has.extend(["sec-websocket-version: 13\r\n", "upgrade: websocket", "connection: upgrade"]);
        cases.push(case);
    }
    cases.push(answered("11.3.5", "two versions", instead(VERSION, &[VERSION, VERSION]), 400));
    for (name, lines) in [
        ("none", &[][..]),
        ("nothing", &["Sec-WebSocket-Key:"]),
        ("two", &[KEY, "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA=="]),
        ("the same twice", &[KEY, KEY]),
        ("a list", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, AQIDBAUGBwgJCgsMDQ4PEA=="]),
        ("15 bytes", &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4P"]),
        ("17 bytes", &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEBE="]),
        ("no padding", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]),
        ("no base64", &["Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="]),
        ("a space within", &["Sec-WebSocket-Key: dGhlIHNhbXB sZSBub25jZQ=="]),
        ("the letters of URLs", &["Sec-WebSocket-Key: __-_____________________=="]),
        (
            "bytes that are no text",
            &["Sec-WebSocket-Key: \u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}=="],
        ),
    ] {
        cases.push(answered("4.2.1", format!("Sec-WebSocket-Key with {name}"), instead(KEY, lines), 400));
    }
    for (name, lines) in
        [("none", &[][..]), ("two", &[HOST, "Host: there"]), ("the same twice", &[HOST, HOST])]
    {
        cases.push(answered("4.1", format!("Host with {name}"), instead(HOST, lines), 400));
    }
    for (name, line, has) in [
        ("ours", "Sec-WebSocket-Protocol: switchyard.v1", Some("switchyard.v1")),
        ("ours behind another", "Sec-WebSocket-Protocol: other, switchyard.v1", Some("switchyard.v1")),
        ("ours without a space", "Sec-WebSocket-Protocol: switchyard.v1,other", Some("switchyard.v1")),
        (
            "two lines",
            "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: switchyard.v1",
            Some("switchyard.v1"),
        ),
        ("capitals", "Sec-WebSocket-Protocol: Switchyard.V1", Some("switchyard.v1")),
        ("another", "Sec-WebSocket-Protocol: other", None),
        ("one that holds it", "Sec-WebSocket-Protocol: switchyard.v11, xswitchyard.v1", None),
        ("nothing", "Sec-WebSocket-Protocol:", None),
    ] {
        let mut case = good("4.2.2", &format!("subprotocols: {name}"), with(line));
        match has {
            Some(_) => case.has.push("sec-websocket-protocol: switchyard.v1\r\n"),
            None => case.lacks.push("sec-websocket-protocol"),
        }
        cases.push(case);
    }
    for (name, line) in [
        ("one", "Sec-WebSocket-Extensions: permessage-deflate"),
        (
            "with parameters",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        ),
        (
            "two lines",
            "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: permessage-bzip2",
        ),
        ("capitals", "SEC-WEBSOCKET-EXTENSIONS: PERMESSAGE-DEFLATE"),
        ("unknown", "Sec-WebSocket-Extensions: foo; bar=\"baz, qux\""),
        ("nothing", "Sec-WebSocket-Extensions:"),
    ] {
        cases.push(good("9.1", &format!("extensions: {name}"), with(line)));
    }
    cases
}

impl Handshake {
    /// Tests a server with a request written in one piece or byte by byte. The error says what came instead.
    pub async fn hold(&self, url: &str, bytewise: bool) -> Result<(), String> {
        let held = timeout(Duration::from_secs(20), self.held(url, bytewise)).await;
        let held = held.unwrap_or_else(|_| Err("no end within 20 s".into()));
        let Self { section, name, .. } = self;
        held.map_err(|error| format!("{section} {name}, byte by byte: {bytewise}, at {url}: {error}"))
    }

    async fn held(&self, url: &str, bytewise: bool) -> Result<(), String> {
        let mut line = Line::open(url).await;
        let request = self.request.as_bytes();
        match bytewise {
            true => line.write_chopped(request, request.len()).await.ok(),
            // A client may continue without waiting for the answer.
            false if self.status == 101 => line.write(&[request, &connect()].concat()).await.ok(),
            false => line.write(request).await.ok(),
        };
        let head = line.head().await?;
        if !head.starts_with(&format!("http/1.1 {} ", self.status))
            && !head.starts_with(&format!("http/1.0 {} ", self.status))
        {
            return Err(head);
        }
        for has in &self.has {
            if !head.contains(has) {
                return Err(format!("no {has:?} in {head}"));
            }
        }
        for lacks in &self.lacks {
            if head.contains(lacks) {
                return Err(format!("{lacks:?} in {head}"));
            }
        }
        if self.status != 101 {
            return Ok(());
        }
        if bytewise {
            line.write(&connect()).await.ok();
        }
        match line.frame().await? {
            Got::Text(text) if text["type"] == "connected" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}
