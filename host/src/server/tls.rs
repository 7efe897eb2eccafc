//! The certificate, reread when its files change.

use crate::file;
use arc_swap::ArcSwap;
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

/// `[server] tls`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM: the certificate and those that lead to its root.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Bytes of a file of certificates or of a key.
const LARGEST: u64 = 1 << 20;

pub struct Tls {
    acceptor: ArcSwap<ServerConfig>,
}

impl Tls {
    /// The error says which file is wrong and why.
    pub fn open(files: TlsConfig) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self { acceptor: ArcSwap::new(Certificate::read(&files)?.0) }))
    }

    /// New connections get this one.
    pub fn renew(&self, certificate: Certificate) {
        self.acceptor.store(certificate.0);
    }

    pub async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.acceptor.load_full()).accept(tcp).await
    }
}

/// A certificate with its key, as it was read.
pub struct Certificate(Arc<ServerConfig>);

impl Certificate {
    /// The error says which file is wrong and why.
    pub fn read(files: &TlsConfig) -> Result<Self, String> {
        read(files).map(Self)
    }
}

fn read(files: &TlsConfig) -> Result<Arc<ServerConfig>, String> {
    let wrong = |file: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let text = |file: &Path| file::read(file, LARGEST).map_err(|error| wrong(file, &error));
    let chain = CertificateDer::pem_slice_iter(&text(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&files.certificate, &format!("no PEM certificate can be read: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"holds no PEM certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&text(&files.key)?)
        .map_err(|error| wrong(&files.key, &format!("no PEM private key can be read: {error}")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.certificate, &format!("does not fit its key: {error}")))?;
    Ok(Arc::new(config))
}
