//! A command as it is sent to a server, and how a server of a Cluster redirects it.

use super::connection::RedisConnection;
use fred::types::{Value, config::Server};

/// A command as it is sent to a server.
pub(super) struct Call {
    pub name: &'static str,
    pub arguments: Vec<Value>,
}

impl Call {
    /// Asks a server for some sections of `INFO`.
    pub(super) fn info(sections: &[&'static str]) -> Self {
        Self { name: "INFO", arguments: sections.iter().map(|section| Value::from(*section)).collect() }
    }

    /// `text` is the digest of the script for `EVALSHA`, or its code for `EVAL`.
    pub(super) fn script(name: &'static str, text: &str, keys: Vec<String>, arguments: Vec<Value>) -> Self {
        let first = [Value::from(text), Value::from(keys.len() as i64)];
        let rest = keys.into_iter().map(Value::from).chain(arguments);
        Self { name, arguments: first.into_iter().chain(rest).collect() }
    }
}

/// A field of a reply to `INFO` or `CLUSTER INFO`.
pub(super) fn field(info: &Value, name: &str) -> Option<String> {
    let info = info.as_str()?;
    info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// The answer of a server of a Cluster that does not carry a command out.
pub(super) enum Redirection {
    /// The slot belongs to this server now.
    Moved(Server),
    /// The slot is moving to this server, which has the key already.
    Ask(Server),
    /// The slot is moving, and only some of the keys have arrived.
    TryAgain,
}

impl Redirection {
    /// `by` is the connection that the error came from: a server may name itself by its port alone.
    pub(super) fn read(error: &str, by: &RedisConnection) -> Option<Self> {
        let mut words = error.split(' ');
        let (kind, address) = (words.next()?, words.nth(1));
        let server = || {
            let (host, port) = address?.rsplit_once(':')?;
            let host = if host.is_empty() { by.host()? } else { host.to_owned() };
            Some(Server::new(host, port.parse().ok()?))
        };
        match kind {
            "MOVED" => server().map(Self::Moved),
            "ASK" => server().map(Self::Ask),
            "TRYAGAIN" => Some(Self::TryAgain),
            _ => None,
        }
    }
}
