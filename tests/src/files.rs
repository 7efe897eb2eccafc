//! Files that tests write: certificates, and files that are replaced while a node runs.

use std::{fs, path::Path};

/// A self-signed certificate.
pub struct Certificate {
    /// The certificate, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: String,
}

impl Certificate {
    /// The table `tls` of a node whose folder contains the files of [`write_to`](Self::write_to), as TOML.
    pub const CONFIG: &str = r#"tls = { certificate = "cert.pem", key = "key.pem" }"#;

    /// Generates a certificate for `localhost` and `127.0.0.1`.
    pub fn generate() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn write_to(&self, folder: &Path) {
        fs::write(folder.join("cert.pem"), &self.certificate).expect("a file");
        fs::write(folder.join("key.pem"), &self.key).expect("a file");
    }
}

/// Replaces a file atomically, as an editor does.
pub fn replace_file(file: &Path, content: impl AsRef<[u8]>) {
    let new = file.with_extension("new");
    fs::write(&new, content).expect("a file beside it");
    fs::rename(new, file).expect("one step");
}
