//! A command as it goes to a server, and what a server says of it.

use super::connection::Connection;
use fred::types::{Value, config::Server};

/// One command as it goes to a server.
pub(super) struct Call {
    pub name: &'static str,
    pub arguments: Vec<Value>,
}

impl Call {
    /// What a server says of itself.
    pub(super) fn info(sections: &[&'static str]) -> Self {
        Self { name: "INFO", arguments: sections.iter().map(|section| Value::from(*section)).collect() }
    }

    /// `text` is the script's digest, or all of it.
    pub(super) fn script(name: &'static str, text: &str, keys: Vec<String>, arguments: Vec<Value>) -> Self {
        let first = [Value::from(text), Value::from(keys.len() as i64)];
        let rest = keys.into_iter().map(Value::from).chain(arguments);
        Self { name, arguments: first.into_iter().chain(rest).collect() }
    }
}

/// A line of what `INFO` says.
pub(super) fn field(said: &Value, name: &str) -> Option<String> {
    let said = said.as_str()?;
    said.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// What a server of a Cluster says instead of carrying a command out.
pub(super) enum Redirection {
    /// It is this server's from now on.
    Moved(Server),
    /// The slot moves there, and what was asked for is there already.
    Ask(Server),
    /// Keys of a slot that moves are partly here and partly there.
    Again,
}

impl Redirection {
    /// `by` is who said so: it may name itself by its port alone.
    pub(super) fn read(error: &str, by: &Connection) -> Option<Self> {
        let mut words = error.split(' ');
        let (kind, place) = (words.next()?, words.nth(1));
        let server = || {
            let (host, port) = place?.rsplit_once(':')?;
            let host = if host.is_empty() { by.host()? } else { host.to_owned() };
            Some(Server::new(host, port.parse().ok()?))
        };
        match kind {
            "MOVED" => server().map(Self::Moved),
            "ASK" => server().map(Self::Ask),
            "TRYAGAIN" => Some(Self::Again),
            _ => None,
        }
    }
}
