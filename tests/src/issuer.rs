//! An issuer of user tokens, and the HTTP server with its keys, which can rotate them, hang, lie and go away.

use crate::Certificate;
use ::ring::signature::{Ed25519KeyPair, KeyPair};
use axum::{Router, body::Body, extract::State, http::StatusCode, response::Response, routing::get};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use switchyard_protocol::unix_ms;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::task::AbortOnDropHandle;

/// The `iss` of its tokens.
pub const ISSUER: &str = "https://auth.example.org";

/// How the server with the keys behaves.
#[derive(Clone, Debug)]
pub enum KeyServer {
    /// It serves these keys, each made from a number and named by it.
    Keys(Vec<u8>),
    /// It never answers.
    Hangs,
    /// It answers with this status, and says that the keys are elsewhere.
    Status(u16),
    /// It answers with an endless text.
    Endless,
    /// It answers with this text.
    Text(&'static str),
}

#[derive(Clone)]
struct Shared {
    behavior: Arc<Mutex<KeyServer>>,
    fetches: watch::Sender<usize>,
}

/// An issuer with a key server on a free port.
pub struct Issuer {
    address: SocketAddr,
    shared: Shared,
    tls_task: Option<AbortOnDropHandle<()>>,
    _task: AbortOnDropHandle<()>,
}

fn pair(key: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[key; 32]).expect("32 bytes")
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key set with these keys.
pub fn key_set(keys: &[u8]) -> String {
    let key = |key: &u8| {
        let public = base64(pair(*key).public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": key.to_string(), "x": public})
    };
    json!({"keys": keys.iter().map(key).collect::<Vec<_>>()}).to_string()
}

/// A token that the key with this number has signed. `changes` are claims to add, or with `null` to leave out. Without
/// them, it is valid for ten minutes and its subject is `ann`.
pub fn user_token(key: u8, changes: Value) -> String {
    let now = unix_ms() / 1000;
    let mut claims = json!({"iss": ISSUER, "aud": "switchyard", "sub": "ann", "iat": now, "exp": now + 600});
    for (name, value) in changes.as_object().expect("an object of claims") {
        match value.is_null() {
            true => drop(claims.as_object_mut().expect("an object").remove(name)),
            false => claims[name] = value.clone(),
        }
    }
    let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": key.to_string()});
    let signed = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
    let signature = base64(pair(key).sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

impl Issuer {
    pub async fn start(behavior: KeyServer) -> Self {
        let shared = Shared { behavior: Arc::new(Mutex::new(behavior)), fetches: watch::Sender::new(0) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/jwks.json", get(answer)).with_state(shared.clone());
        let task = tokio::spawn(async { axum::serve(listener, router).await.expect("it serves") });
        Self { address, shared, tls_task: None, _task: AbortOnDropHandle::new(task) }
    }

    /// The same behind TLS, with this certificate. The port of the TLS listener.
    pub async fn listen_with_tls(&mut self, certificate: &Certificate) -> u16 {
        let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a certificate with its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (port, plain) = (listener.local_addr().expect("bound").port(), self.address);
        self.tls_task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut client) = acceptor.accept(tcp).await else { continue };
                let mut server = TcpStream::connect(plain).await.expect("the issuer");
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            }
        })));
        port
    }

    /// A section `[[issuer]]` with more settings.
    pub fn section(&self, more: &str) -> String {
        self.section_at(&format!("http://{}/jwks.json", self.address), more)
    }

    /// The same with another URL.
    pub fn section_at(&self, url: &str, more: &str) -> String {
        format!(
            "[[issuer]]\nname = \"app\"\nissuer = \"{ISSUER}\"\naudience = \"switchyard\"\nalgorithms = [\"EdDSA\"]\n\
             jwks = \"{url}\"\n{more}\n"
        )
    }

    /// The server behaves like this from now on.
    pub fn set(&self, behavior: KeyServer) {
        *self.shared.behavior.lock().expect("not poisoned") = behavior;
    }

    /// How often the keys were fetched.
    pub fn fetches(&self) -> usize {
        *self.shared.fetches.borrow()
    }

    /// Waits until the keys were fetched so many times.
    pub async fn fetched(&self, times: usize) {
        let mut fetches = self.shared.fetches.subscribe();
        let fetched =
            tokio::time::timeout(crate::EVENT_TIMEOUT, fetches.wait_for(|count| *count >= times)).await;
        fetched.expect("a fetch in time").expect("the issuer has the sender");
    }
}

async fn answer(State(shared): State<Shared>) -> Response {
    shared.fetches.send_modify(|fetches| *fetches += 1);
    let behavior = shared.behavior.lock().expect("not poisoned").clone();
    let with = |status: u16, body: Body| {
        let status = StatusCode::from_u16(status).expect("a status");
        Response::builder().status(status).header("location", "/jwks.json?again").body(body).expect("valid")
    };
    match behavior {
        KeyServer::Keys(keys) => with(200, key_set(&keys).into()),
        KeyServer::Text(text) => with(200, text.into()),
        KeyServer::Hangs => std::future::pending().await,
        KeyServer::Status(status) => with(status, key_set(&[1]).into()),
        KeyServer::Endless => {
            let part = || Some((Ok::<_, std::io::Error>(vec![b' '; 64 << 10]), ()));
            with(
                200,
                Body::from_stream(futures_util::stream::unfold((), move |()| std::future::ready(part()))),
            )
        }
    }
}
