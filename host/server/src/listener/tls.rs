//! TLS for clients: the certificate of `[server] tls`, which can be replaced while the node runs. Does not
//! notice when its files change.

use crate::validity::Validity;
use arc_swap::ArcSwap;
use serde::Deserialize;
use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use switchyard_process::file::{self, UnusableFile};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, InvalidMessage, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

/// `[server] tls`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the certificate, followed by those that lead to its root.
    pub certificate: PathBuf,
    /// A PEM file with the private key of the certificate.
    pub key: PathBuf,
}

/// Maximum size of a PEM file, in bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Accepts TLS connections with the current certificate.
pub struct Tls {
    current: ArcSwap<Certificate>,
}

impl Tls {
    /// Reads the certificate and its key. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read, if it is not PEM, or if the key does not match the certificate. The
    /// message names the key of the configuration and the file.
    pub fn open(files: TlsConfig) -> Result<Arc<Self>, UnusableFile> {
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(Certificate::read(&files)?) }))
    }

    /// Uses this certificate for new connections. Returns whether it differs from the previous one.
    pub(crate) fn replace(&self, certificate: Certificate) -> bool {
        let chain = certificate.chain.clone();
        self.current.swap(Arc::new(certificate)).chain != chain
    }

    /// When the current certificate is valid.
    pub(crate) fn validity(&self) -> Validity {
        self.current.load().validity
    }

    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current.load().config.clone()).accept(tcp).await
    }
}

/// Whether a TLS handshake failed because the client sent something other than TLS.
pub(super) fn is_not_tls(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

/// A certificate with its key.
pub(crate) struct Certificate {
    config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    /// When all certificates of the chain are valid: clients need each of them.
    validity: Validity,
}

impl Certificate {
    /// Reads a certificate and its key. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read, if it is not PEM, or if the key does not match the certificate. The
    /// message names the key of the configuration and the file.
    pub(crate) fn read(files: &TlsConfig) -> Result<Self, UnusableFile> {
        let certificate = PemFile { key: "server.tls.certificate", path: &files.certificate };
        let key = PemFile { key: "server.tls.key", path: &files.key };
        let chain = CertificateDer::pem_slice_iter(file::without_bom(&certificate.read()?))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| certificate.invalid(format_args!("expected a PEM certificate: {error}")))?;
        if chain.is_empty() {
            return Err(certificate.invalid("expected a PEM certificate, found none"));
        }
        let validity = chain.iter().map(|certificate| Validity::of(certificate));
        let validity = validity.reduce(|all, one| all?.and(one?).into()).flatten();
        let validity = validity.ok_or_else(|| {
            certificate.invalid("expected a PEM certificate, found one that is not an X.509 certificate")
        })?;
        let private_key = PrivateKeyDer::from_pem_slice(file::without_bom(&key.read()?))
            .map_err(|error| key.invalid(format_args!("expected a PEM private key: {error}")))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain.clone(), private_key)
            .map_err(|error| {
                certificate.invalid(format_args!("the certificate does not match server.tls.key: {error}"))
            })?;
        Ok(Self { config: Arc::new(config), chain, validity })
    }
}

/// One of the two files, and the key of the configuration that names it.
struct PemFile<'a> {
    key: &'static str,
    path: &'a Path,
}

impl PemFile<'_> {
    fn read(&self) -> Result<Vec<u8>, UnusableFile> {
        let what = format_args!("{}: {}", self.key, self.path.display());
        file::read(self.path, MAX_PEM_BYTES).map_err(|error| UnusableFile::new(what, &error))
    }

    fn invalid(&self, reason: impl Display) -> UnusableFile {
        UnusableFile::Invalid(format!("{}: {}: {reason}", self.key, self.path.display()))
    }
}
