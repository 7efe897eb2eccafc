//! The certificate, reread when its files change.

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

pub struct Tls {
    files: TlsConfig,
    acceptor: ArcSwap<ServerConfig>,
}

impl Tls {
    /// The error says which file is wrong and why.
    pub fn open(files: TlsConfig) -> Result<Arc<Self>, String> {
        let acceptor = ArcSwap::new(read(&files)?);
        Ok(Arc::new(Self { files, acceptor }))
    }

    /// Reads the files again. A failure leaves the certificate as it is.
    pub fn reload(&self) -> Result<(), String> {
        self.acceptor.store(read(&self.files)?);
        Ok(())
    }

    pub async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.acceptor.load_full()).accept(tcp).await
    }
}

fn read(files: &TlsConfig) -> Result<Arc<ServerConfig>, String> {
    let wrong = |file: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(&files.certificate, &format!("no PEM certificate can be read: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"holds no PEM certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong(&files.key, &format!("no PEM private key can be read: {error}")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.certificate, &format!("does not fit its key: {error}")))?;
    Ok(Arc::new(config))
}
