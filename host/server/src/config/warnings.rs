//! Settings that are allowed but probably not intended.

use super::{Config, StoreUrl};
use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path};
use switchyard_plugin::StateScope;
use switchyard_protocol::{room::RoomPattern, unix_ms};

/// The mode bit that lets everybody read a file.
const READABLE_BY_OTHERS: u32 = 0o004;

impl Config {
    /// Warnings for the operator, one sentence each. `file` is the file from which the configuration was
    /// read. Examines files, so it blocks.
    pub fn warnings(&self, file: Option<&Path>) -> Vec<String> {
        let (server, admin) = (&self.server, self.admin.listen);
        let mut warnings = vec![];
        if is_public(server.listen) && server.tls.is_none() {
            warnings.push(format!(
                "server.listen is {}, which other machines can reach, and server.tls is not set, so keys and messages \
                 travel in plain text: set server.tls, or make sure that only a proxy that terminates TLS can connect",
                server.listen
            ));
        }
        if is_public(admin) {
            warnings.push(format!(
                "admin.listen is {admin}, which other machines can reach; it is plain HTTP, and metrics and health need \
                 no key: make sure that only operators can connect"
            ));
        }
        if let (false, None) = (self.limits.trusted.is_empty(), self.limits.header) {
            warnings.push(
                "limits.trusted is set, but limits.header is not set, so clients behind these proxies have no limits by \
                 address, and the proxy's address is shown for each of them: set limits.header to the header in which \
                 the proxies name their clients"
                    .to_owned(),
            );
        }
        let everybody = self.limits.trusted.iter().find(|network| network.is_everything());
        if let Some(network) = everybody.filter(|_| self.limits.header.is_some()) {
            warnings.push(format!(
                "limits.trusted contains {network}, so every client is believed and can pretend to have any address: list \
                 the addresses of the proxies only"
            ));
        }
        if let Some(tls) = server.tls.as_ref().filter(|tls| is_world_readable(&tls.key)) {
            warnings.push(readable("server.tls.key", &tls.key, "the private key of the certificate"));
        }
        for issuer in &self.issuers {
            if let Some(secret) = issuer.secret_file.as_ref().filter(|file| is_world_readable(file)) {
                warnings.push(readable("issuer.secret_file", secret, "the secret that signs tokens"));
            }
        }
        let has_password = matches!(&self.store.url, StoreUrl::Redis(url) if url.has_password());
        if let Some(file) = file.filter(|file| has_password && is_world_readable(file)) {
            warnings.push(readable("the configuration", file, "a Redis password"));
        }
        let now = unix_ms();
        for key in &self.keys {
            if let Some(at) = key.expires.filter(|at| at.0 <= now) {
                warnings.push(format!(
                    "key.expires: a key of principal '{}' expired at {at}: remove its [[key]] section, or set a later time",
                    key.principal.0
                ));
            }
        }
        warnings.extend(self.hidden_room_entries());
        for (n, plugin) in self.plugins.iter().enumerate() {
            let name = plugin.name();
            let before: Vec<_> = self.plugins[..n].iter().flat_map(|plugin| &plugin.rooms).collect();
            let is_covered = |pattern: &RoomPattern| before.iter().any(|wide| wide.covers(pattern));
            if plugin.rooms.is_empty() {
                warnings.push(format!("plugin.rooms of plugin '{name}' is empty, so it governs no rooms"));
            } else if plugin.rooms.iter().all(is_covered) {
                warnings.push(format!(
                    "plugin '{name}' governs no rooms: plugins before it govern all that match its patterns; move it \
                     before them"
                ));
            }
        }
        if self.store.url == StoreUrl::Memory {
            for plugin in self.plugins.iter().filter(|plugin| plugin.state == StateScope::Shared) {
                warnings.push(format!(
                    "plugin.state of plugin '{}' is \"shared\", but store.url is \"memory\", so its state belongs to this \
                     node and is lost when the node ends: use a store that nodes share",
                    plugin.name()
                ));
            }
        }
        warnings
    }
}

fn is_public(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Whether a regular file can be read by every user of this machine. Blocks.
pub fn is_world_readable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.mode() & READABLE_BY_OTHERS != 0)
}

fn readable(key: &str, file: &Path, secret: &str) -> String {
    let file = file.display();
    format!(
        "{key}: every user of this machine can read {file}, which contains {secret}: run `chmod o= {file}`"
    )
}
