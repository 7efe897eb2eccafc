//! The certificate, reread when its files change.

use crate::validity::Validity;
use arc_swap::ArcSwap;
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use switchyard_process::file::{self, UnusableFile};
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
    shown: ArcSwap<Certificate>,
}

impl Tls {
    /// The error says which file is wrong and why.
    pub fn open(files: TlsConfig) -> Result<Arc<Self>, String> {
        let read = Certificate::read(&files).map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { shown: ArcSwap::from_pointee(read) }))
    }

    /// New connections get this one; says whether it is another.
    pub fn renew(&self, certificate: Certificate) -> bool {
        let chain = certificate.chain.clone();
        self.shown.swap(Arc::new(certificate)).chain != chain
    }

    /// When the certificate that is shown now is good.
    pub fn validity(&self) -> Validity {
        self.shown.load().validity
    }

    pub async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.shown.load().config.clone()).accept(tcp).await
    }
}

/// A certificate with its key, as it was read.
pub struct Certificate {
    config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    /// Of all in the file: clients need each.
    validity: Validity,
}

impl Certificate {
    /// The error says which file is wrong and why.
    pub fn read(files: &TlsConfig) -> Result<Self, UnusableFile> {
        read(files)
    }
}

fn read(files: &TlsConfig) -> Result<Certificate, UnusableFile> {
    let wrong = |file: &Path, why: &dyn std::fmt::Display| {
        UnusableFile::Invalid(format!("{}: {why}", file.display()))
    };
    let text = |file: &Path| file::read(file, LARGEST).map_err(|why| UnusableFile::new(file.display(), &why));
    let chain = CertificateDer::pem_slice_iter(file::without_bom(&text(&files.certificate)?))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&files.certificate, &format!("no PEM certificate can be read: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"holds no PEM certificate"));
    }
    let validity = chain.iter().map(|certificate| Validity::of(certificate));
    let validity = validity.reduce(|all, one| all?.and(one?).into()).flatten();
    let validity = validity.ok_or_else(|| wrong(&files.certificate, &"holds what is no certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(file::without_bom(&text(&files.key)?))
        .map_err(|error| wrong(&files.key, &format!("no PEM private key can be read: {error}")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .map_err(|error| wrong(&files.certificate, &format!("does not fit its key: {error}")))?;
    Ok(Certificate { config: Arc::new(config), chain, validity })
}
