//! Fetches a key set over HTTP. Only the URL of the configuration is fetched: no redirect is followed.

use super::{issuer::JwksUrl, jwk::MAX_KEY_SET_BYTES};
use crate::blocking::{BlockingError, SerialRunner};
use axum::body::Body;
use futures_util::StreamExt;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::{io, net::ToSocketAddrs, sync::Arc, time::Duration};
use switchyard_process::file::without_bom;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject},
    },
};

/// How long a fetch may take, with everything that belongs to it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of the head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("cannot resolve the name: {0}")]
    Resolve(#[from] BlockingError),
    #[error("cannot connect: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("the answer is not valid HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer has status {0}, expected 200; redirects are not followed")]
    Status(StatusCode),
    #[error("the answer broke off: {0}")]
    Body(#[from] axum::Error),
    #[error("the answer has more than {MAX_KEY_SET_BYTES} bytes")]
    TooLarge,
    #[error("issuer.ca: no PEM certificate in the file")]
    Certificates,
    #[error("issuer.ca: {0}")]
    InvalidCertificate(String),
}

/// Fetches what is at the URL. `authorities` is the text of `issuer.ca`; without it, the public authorities are trusted.
pub(super) async fn fetch(
    url: &JwksUrl,
    authorities: Option<&[u8]>,
    resolver: &SerialRunner,
) -> Result<Vec<u8>, FetchError> {
    timeout(FETCH_TIMEOUT, exchange(url, authorities, resolver)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn exchange(
    JwksUrl(url): &JwksUrl,
    authorities: Option<&[u8]>,
    resolver: &SerialRunner,
) -> Result<Vec<u8>, FetchError> {
    let host = url.host_str().expect("the URL has a host");
    let port = url.port_or_known_default().expect("both schemes have one");
    // IPv6 addresses have brackets in a URL.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let owned = name.to_owned();
    let resolve = move || (&*owned, port).to_socket_addrs().map(Vec::from_iter);
    let addresses = resolver.run("resolves a name", FETCH_TIMEOUT, resolve).await??;
    let tcp = TcpStream::connect(&*addresses).await?;
    match url.scheme() {
        "https" => {
            let connector = TlsConnector::from(client_config(authorities)?);
            let server = ServerName::try_from(name.to_owned())?;
            request(connector.connect(server, tcp).await?, url).await
        }
        _ => request(tcp, url).await,
    }
}

async fn request<S>(stream: S, url: &url::Url) -> Result<Vec<u8>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = client.handshake::<_, Body>(TokioIo::new(stream)).await?;
    let request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::ACCEPT, "application/json")
        .body(Body::empty())
        .expect("a URL has a valid path and host");
    // Both run in this task, so that the connection ends with the fetch.
    let answered = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut parts = Body::new(response.into_body()).into_data_stream();
        let mut text = vec![];
        while let Some(part) = parts.next().await {
            let part = part?;
            if text.len() + part.len() > MAX_KEY_SET_BYTES {
                return Err(FetchError::TooLarge);
            }
            text.extend_from_slice(&part);
        }
        Ok(text)
    };
    tokio::pin!(answered, connection);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = connection => {
            ended?;
            answered.await
        }
    }
}

fn client_config(authorities: Option<&[u8]>) -> Result<Arc<ClientConfig>, FetchError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(text) => {
            for certificate in CertificateDer::pem_slice_iter(without_bom(text)) {
                let wrong = |error: &dyn std::fmt::Display| FetchError::InvalidCertificate(error.to_string());
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(FetchError::Certificates);
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
