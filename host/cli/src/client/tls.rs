//! Which server certificates the client trusts.

use anyhow::{Context, bail};
use std::{path::Path, sync::Arc};
use switchyard_process::file::without_bom;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// Sets the cryptography for TLS configurations that do not choose one, such as the WebSocket library's
/// default.
pub(super) fn install_provider() {
    // Fails if one is installed already, which is just as good.
    ring::default_provider().install_default().ok();
}

/// Trusts only the PEM certificates in `file`, and what they signed.
pub(super) fn trusting_only(file: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let name = file.display().to_string();
    let text = std::fs::read(file).with_context(|| format!("--ca {name}"))?;
    let certificates = CertificateDer::pem_slice_iter(without_bom(&text))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("--ca {name}: cannot parse the PEM certificates"))?;
    if certificates.is_empty() {
        bail!("--ca {name}: no PEM certificate in the file");
    }
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).with_context(|| format!("--ca {name}"))?;
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedOrSigned { pinned: certificates, chains }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts the given certificates themselves, and what they signed. The first is necessary because most tools
/// mark a self-signed certificate as an authority, and webpki rejects an authority as a server's own
/// certificate.
#[derive(Debug)]
struct PinnedOrSigned {
    pinned: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for PinnedOrSigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|certificate| certificate == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
