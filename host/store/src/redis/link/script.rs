//! A Lua script as a server runs it. Which scripts there are, and what they do, is in
//! [`crate::redis::scripts`].

pub(crate) struct Script {
    /// Its name in metrics.
    pub name: &'static str,
    pub code: String,
    /// The digest of the code, by which a server knows a script that it has run before.
    pub sha1: String,
}

impl Script {
    pub(crate) fn new(name: &'static str, code: &str) -> Self {
        Self { name, code: code.to_owned(), sha1: fred::util::sha1_hash(code) }
    }
}
