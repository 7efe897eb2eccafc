//! What a configuration may say, and what is most likely not meant.

use super::{Config, StoreUrl};
use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path};

impl Config {
    /// Each a sentence for the operator. `file` is where the configuration came from. Looks at files.
    pub fn risks(&self, file: Option<&Path>) -> Vec<String> {
        let (server, admin) = (&self.server, self.admin.listen);
        let mut all = vec![];
        if is_public(server.listen) && server.tls.is_none() {
            all.push(format!(
                "server.listen is {}, which other machines reach, and without server.tls keys and messages travel in the clear: \
                 configure it, or see that only a proxy that speaks TLS gets here",
                server.listen
            ));
        }
        if is_public(admin) {
            all.push(format!(
                "admin.listen is {admin}, which other machines reach: it is plain HTTP, and metrics and health need no key; see \
                 that only operators get here"
            ));
        }
        if let Some(tls) = server.tls.as_ref().filter(|tls| is_open(&tls.key)) {
            all.push(open("server.tls.key", &tls.key, "holds the private key of the certificate"));
        }
        let has_password = matches!(&self.store.url, StoreUrl::Redis(url) if url.has_password());
        if let Some(file) = file.filter(|file| has_password && is_open(file)) {
            all.push(open("the configuration", file, "holds a password of Redis"));
        }
        all
    }
}

fn is_public(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Whether every user of the machine may read it.
pub fn is_open(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.mode() & 0o004 != 0)
}

fn open(what: &str, file: &Path, holds: &str) -> String {
    let file = file.display();
    format!("{what}: every user of this machine may read {file}, which {holds}: `chmod o= {file}`")
}
