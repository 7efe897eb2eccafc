//! A conversation in a document, run against a new node.
//!
//! `->` is what a client sends, `<-` the next frame it receives, `!!` an event of the connection, and `#` a
//! comment. A line that starts with a space continues the previous one. With several clients, their names
//! come first. `GET /path` and the like are HTTP requests, to the client listener if the path is that of the
//! WebSocket, otherwise to the admin listener.

use super::shape::{Captured, lookalike};
use serde_json::{Value, json};
use std::collections::HashMap;
use switchyard_tests::{Client, KEY, READER, Server, guest};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, client::IntoClientRequest, http::HeaderName},
};

pub struct Script {
    /// File and line.
    pub place: String,
    /// The node's configuration: `a.b=value` of TOML, `plugins`, or `failing` for a plugin that panics.
    setup: String,
    steps: Vec<Step>,
}

struct Step {
    line: usize,
    who: String,
    sign: String,
    text: String,
}

/// The fenced blocks of a document that are conversations.
pub fn scripts(file: &str, text: &str) -> Vec<Script> {
    let mut found: Vec<Script> = vec![];
    let mut inside = false;
    for (n, line) in text.lines().enumerate() {
        let language = line.strip_prefix("```");
        match (inside, language) {
            (false, Some(info)) if info.starts_with("wire") || info.starts_with("http") => {
                let setup = info[4..].trim().to_owned();
                found.push(Script { place: format!("{file}:{}", n + 1), setup, steps: vec![] });
                inside = true;
            }
            (true, Some(_)) => inside = false,
            (true, None) => read(&mut found.last_mut().expect("pushed above").steps, n + 1, line),
            _ => {}
        }
    }
    found
}

fn read(steps: &mut Vec<Step>, line: usize, text: &str) {
    if text.trim().is_empty() || text.starts_with('#') {
        return;
    }
    if text.starts_with(' ') {
        let step = steps.last_mut().unwrap_or_else(|| panic!("line {line} goes on with nothing"));
        step.text += "\n";
        step.text += text.trim_start();
        return;
    }
    let mut words = text.splitn(3, ' ');
    let first = words.next().unwrap_or_default();
    let (who, sign, text) = match is_sign(first) {
        true => ("", first, text[first.len()..].trim()),
        false => (first, words.next().unwrap_or_default(), words.next().unwrap_or_default().trim()),
    };
    assert!(is_sign(sign), "line {line} has none of -> <- !!");
    steps.push(Step { line, who: who.to_owned(), sign: sign.to_owned(), text: text.to_owned() });
}

fn is_sign(word: &str) -> bool {
    matches!(word, "->" | "<-" | "!!")
}

impl Script {
    /// The error names the line that does not match.
    pub async fn run(&self) -> Result<(), String> {
        let mut run =
            Run { server: Server::start_with(&self.configuration()).await, clients: HashMap::new() };
        let mut known = Captured::default();
        for step in &self.steps {
            let wrong = |why: String| format!("{} (line {}): {why}", self.place, step.line);
            match step.sign.as_str() {
                "->" => run.send(&step.who, &known.fill(&step.text)).await.map_err(wrong)?,
                "<-" => run.expect(&step.who, &step.text, &mut known).await.map_err(wrong)?,
                _ => run.happen(&step.who, &step.text).await.map_err(wrong)?,
            }
        }
        // There were frames that the document does not show.
        for (who, client) in run.clients {
            if let Peer { socket: Some(mut client), greeted: true, .. } = client {
                let last = client.ask(json!({"type": "ping", "id": "last"})).await;
                if last["id"] != "last" {
                    return Err(format!("{}: at the end '{who}' also got {last}", self.place));
                }
            }
        }
        Ok(())
    }

    fn configuration(&self) -> String {
        let (mut settings, mut plugins) = (String::new(), String::new());
        for word in self.setup.split_whitespace() {
            if word == "plugins" {
                let file = |name| guest(name).display().to_string();
                let (thresholds, protocols) = (file("threshold_filter"), file("protocol_rooms"));
                plugins = format!(
                    "[[plugin]]\nname = \"thresholds\"\nfile = \"{thresholds}\"\nrooms = [\"tvl_changes\"]\n\
                     [[plugin]]\nname = \"protocols\"\nfile = \"{protocols}\"\nrooms = [\"*:*\"]\n\
                     config = {{ protocols = [\"uniswap-v3\"], chains = [\"ethereum\"] }}\n"
                );
            } else if word == "failing" {
                let file = guest("hostile").display().to_string();
                plugins = format!(
                    "[[plugin]]\nname = \"thresholds\"\nfile = \"{file}\"\nrooms = [\"tvl_changes\"]\n\
                     config = {{ matches = \"panic\" }}\n"
                );
            } else {
                settings += &format!("{word}\n");
            }
        }
        format!("{settings}{}{plugins}", Server::keys())
    }
}

struct Run {
    server: Server,
    clients: HashMap<String, Peer>,
}

#[derive(Default)]
struct Peer {
    socket: Option<Client>,
    greeted: bool,
    /// Status and body of the latest HTTP request.
    answer: Option<(u16, String)>,
}

impl Run {
    async fn send(&mut self, who: &str, text: &str) -> Result<(), String> {
        let peer = self.clients.entry(who.to_owned()).or_default();
        let verb = text.split(' ').next().unwrap_or_default();
        if matches!(verb, "GET" | "POST" | "PUT" | "DELETE") {
            let rest = text[verb.len()..].trim();
            let (path, body) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let url = &self.server.url;
            if url.ends_with(path) {
                (peer.socket, peer.answer) = upgrade(url, body).await;
            } else {
                let key = match who {
                    "nobody" => None,
                    "zed" => Some(READER),
                    _ => Some(KEY),
                };
                peer.answer = Some(self.server.call(verb, path, key, body).await);
            }
            return Ok(());
        }
        if peer.socket.is_none() {
            peer.socket = Some(Client::open(&*self.server.url).await);
        }
        peer.socket.as_mut().expect("opened above").send_text(text).await;
        Ok(())
    }

    async fn expect(&mut self, who: &str, text: &str, known: &mut Captured) -> Result<(), String> {
        let peer = self.clients.get_mut(who).ok_or("nobody has connected")?;
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let (status, body) = peer.answer.take().ok_or("nothing was called")?;
            let (expected, shown) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            if expected != status.to_string() {
                return Err(format!("the status is {status}: {body}"));
            }
            return match serde_json::from_str::<Value>(&body) {
                _ if shown.is_empty() => Ok(()),
                Ok(body) => known.compare(shown, &body),
                Err(_) if lookalike(shown, body.trim_end()) => Ok(()),
                Err(_) => Err(format!("the body is {body:?}")),
            };
        }
        let frame = peer.socket.as_mut().ok_or("it has no connection")?.recv().await;
        peer.greeted |= frame["type"] == "connected";
        known.compare(text, &frame)
    }

    async fn happen(&mut self, who: &str, what: &str) -> Result<(), String> {
        if what == "drain" {
            self.server.drain();
            return Ok(());
        }
        let peer = self.clients.get_mut(who).ok_or("nobody has connected")?;
        let mut socket = peer.socket.take().ok_or("it has no connection")?;
        peer.greeted = false;
        if what == "cut" {
            socket.cut();
            return Ok(());
        }
        let expected = what.strip_prefix("close ").ok_or("only close, cut and drain happen")?;
        let closed = socket.closed().await;
        let (code, reason) = expected.split_once(' ').unwrap_or((expected, "…"));
        match closed.code.to_string() == code && lookalike(reason, &closed.reason) {
            true => Ok(()),
            false => Err(format!("it closed {} {:?}", closed.code, closed.reason)),
        }
    }
}

/// A WebSocket, or why the upgrade failed.
async fn upgrade(url: &str, headers: &str) -> (Option<Client>, Option<(u16, String)>) {
    let mut request = url.into_client_request().expect("a URL");
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        let name: HeaderName = name.parse().expect("a header");
        request.headers_mut().insert(name, value.parse().expect("its value"));
    }
    match connect_async(request).await {
        Ok((socket, answer)) => {
            let answer = (answer.status().as_u16(), String::new());
            (Some(Client::over(socket)), Some(answer))
        }
        Err(Error::Http(answer)) => {
            let body = answer.body().clone().unwrap_or_default();
            (None, Some((answer.status().as_u16(), String::from_utf8_lossy(&body).into_owned())))
        }
        Err(error) => panic!("no answer: {error}"),
    }
}
