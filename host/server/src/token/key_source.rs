//! The current keys of an issuer. A task fetches them at the start, from time to time, and when a token names an unknown
//! one. Verifies no tokens.

use super::{
    fetch::{FetchError, fetch},
    issuer::IssuerConfig,
    jwk::{InvalidKeySet, KeySet, MAX_KEY_SET_BYTES, VerifyingKey},
    jws::Algorithm,
};
use crate::blocking::{BlockingError, SerialRunner};
use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

pub(super) use super::jwk::MissingKey;

/// How often keys are fetched.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// How often a file with keys is read: it may have changed.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two fetches because of an unknown key. Anybody can name one.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// How soon keys are fetched again after a failure, at first. The time doubles up to [`UNKNOWN_KEY_INTERVAL`].
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long fetched keys are used if they cannot be fetched again.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long a token waits for a fetch.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long reading a file may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The newest keys, and the newest attempt to fetch them.
#[derive(Clone, Default)]
struct FetchState {
    keys: Option<Arc<KeySet>>,
    /// When the keys were fetched.
    fetched: Option<Instant>,
    /// How many attempts have ended.
    attempts: u64,
    /// When the newest attempt began.
    started: Option<Instant>,
    /// When the keys may be fetched because of an unknown one.
    next_on_demand: Option<Instant>,
    /// Why the newest attempt failed, or why its keys are of no use.
    problem: Option<Arc<str>>,
}

/// Where the keys of an issuer come from.
pub(super) struct KeySource {
    issuer: String,
    state: watch::Receiver<FetchState>,
    refresh_requested: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl KeySource {
    /// Fetches the keys of an issuer until this is dropped.
    pub(super) fn start(config: &Arc<IssuerConfig>) -> Self {
        let (files, names) = (SerialRunner::default(), SerialRunner::default());
        let fetcher = Arc::new(Fetcher { config: config.clone(), files, names });
        let fetch = move || {
            let fetcher = fetcher.clone();
            async move { fetcher.fetch().await }
        };
        Self::fetching(config.name.clone(), config.key_file().is_some(), fetch)
    }

    fn fetching<F, Fetched>(issuer: String, is_file: bool, fetch: F) -> Self
    where
        F: Fn() -> Fetched + Send + 'static,
        Fetched: Future<Output = Result<KeySet, KeySourceError>> + Send + 'static,
    {
        let (sender, state) = watch::channel(FetchState::default());
        let refresh_requested = Arc::new(Notify::new());
        let fetching =
            Fetching { issuer: issuer.clone(), is_file, state: sender, requested: refresh_requested.clone() };
        let task = AbortOnDropHandle::new(tokio::spawn(fetching.run(fetch)));
        Self { issuer, state, refresh_requested, _task: task }
    }

    /// The key that a token names, if it is among those that were fetched.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<VerifyingKey>, MissingKey> {
        self.state.borrow().find(id, algorithm)
    }

    /// Fetches the keys, unless that happened a moment ago, and looks for the key again. A refusal with `retryAfter` says
    /// nothing about the token.
    pub(super) async fn refresh_and_find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<VerifyingKey>, Refusal> {
        let mut state = self.state.clone();
        let requested = Instant::now();
        let attempts = {
            let state = state.borrow();
            if state.next_on_demand.is_some_and(|next| next > requested) {
                return Err(self.no_verdict(&state));
            }
            state.attempts
        };
        self.refresh_requested.notify_one();
        let attempted = timeout(WAIT_TIMEOUT, state.wait_for(|state| state.attempts > attempts)).await;
        let Ok(Ok(state)) = attempted else { return Err(self.no_verdict(&self.state.borrow())) };
        match state.find(id, algorithm) {
            Ok(key) => Ok(key),
            Err(MissingKey::Ambiguous) => Err(ambiguous()),
            // An attempt that began before the token was presented may lack a newer key.
            Err(MissingKey::Unknown) if state.problem.is_some() || state.started < Some(requested) => {
                Err(self.no_verdict(&state))
            }
            Err(MissingKey::Unknown) => {
                let issuer = &self.issuer;
                Err(super::invalid(format_args!(
                    "issuer '{issuer}' has no key with its key id (kid) for {algorithm}"
                )))
            }
        }
    }

    fn no_verdict(&self, state: &FetchState) -> Refusal {
        let wait = state
            .next_on_demand
            .map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
        let issuer = &self.issuer;
        let message = match state.keys.as_ref().is_some_and(|keys| keys.problem().is_none()) {
            true => format!(
                "no key of issuer '{issuer}' has the key id (kid) of this token; they will be fetched again, so try later"
            ),
            false => format!("the keys of issuer '{issuer}' are not known at the moment; try again"),
        };
        let retry_after = wait.max(RETRY_INTERVAL).as_millis() as u64;
        Refusal::retry(ErrorCode::IssuerUnavailable, message, retry_after)
    }

    /// Why the keys are missing or old.
    pub(super) fn problem(&self) -> Option<String> {
        let state = self.state.borrow();
        let problem = state.problem.as_ref()?;
        Some(format!("the keys of issuer '{}': {problem}", self.issuer))
    }
}

/// The refusal of a token without a key id, if several keys could have signed it.
pub(super) fn ambiguous() -> Refusal {
    super::invalid("it has no key id (kid), and its issuer has several keys for its algorithm")
}

impl FetchState {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<VerifyingKey>, MissingKey> {
        let is_fresh = self.fetched.is_some_and(|fetched| fetched.elapsed() < MAX_AGE);
        let keys = self.keys.as_ref().filter(|_| is_fresh).ok_or(MissingKey::Unknown)?;
        keys.find(id, algorithm)
    }
}

/// The task of a [`KeySource`].
struct Fetching {
    issuer: String,
    is_file: bool,
    state: watch::Sender<FetchState>,
    requested: Arc<Notify>,
}

impl Fetching {
    async fn run<F, Fetched>(self, fetch: F)
    where
        F: Fn() -> Fetched,
        Fetched: Future<Output = Result<KeySet, KeySourceError>>,
    {
        let mut retry = RETRY_INTERVAL;
        loop {
            let started = Instant::now();
            let fetched = fetch().await;
            let next = self.record(started, fetched, &mut retry);
            let next_on_demand = self.state.borrow().next_on_demand.expect("there was an attempt");
            let requested = async {
                self.requested.notified().await;
                // Whoever asked during the attempt has got no verdict from it.
                while Instant::now() < next_on_demand {
                    self.requested.notified().await;
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = requested => {}
            }
        }
    }

    /// Records an attempt, and returns when the next one is due.
    fn record(
        &self,
        started: Instant,
        fetched: Result<KeySet, KeySourceError>,
        retry: &mut Duration,
    ) -> Instant {
        let (now, issuer) = (Instant::now(), &self.issuer);
        let after_failure = std::mem::replace(retry, UNKNOWN_KEY_INTERVAL.min(2 * *retry));
        let is_usable = fetched.as_ref().is_ok_and(|keys| keys.problem().is_none());
        if is_usable {
            *retry = RETRY_INTERVAL;
        }
        let interval = match is_usable {
            _ if self.is_file => FILE_INTERVAL,
            true => REFRESH_INTERVAL,
            false => after_failure,
        };
        self.state.send_modify(|state| {
            (state.attempts, state.started) = (state.attempts + 1, Some(started));
            let problem = match fetched {
                Ok(keys) => {
                    let problem = keys.problem();
                    (state.keys, state.fetched) = (Some(Arc::new(keys)), Some(started));
                    problem
                }
                // A file that is gone or wrong is a decision of the operator.
                Err(error) if self.is_file => {
                    state.keys = None;
                    Some(error.to_string())
                }
                Err(error) => Some(error.to_string()),
            };
            let problem = problem.map(Arc::<str>::from);
            if problem != state.problem {
                match &problem {
                    Some(problem) => {
                        tracing::error!(%issuer, "the keys of an issuer cannot be used: {problem}")
                    }
                    None => tracing::info!(%issuer, "the keys of an issuer can be used again"),
                }
            }
            state.problem = problem;
            let has_keys = state.keys.as_ref().is_some_and(|keys| keys.problem().is_none());
            let on_demand = match has_keys {
                _ if self.is_file => FILE_INTERVAL,
                true => UNKNOWN_KEY_INTERVAL,
                false => after_failure,
            };
            state.next_on_demand = Some(now + on_demand);
        });
        now + interval
    }
}

struct Fetcher {
    config: Arc<IssuerConfig>,
    files: SerialRunner,
    /// Resolves the name of the host.
    names: SerialRunner,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum KeySourceError {
    #[error("issuer.jwks: {0}")]
    Fetch(#[from] FetchError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: it has more than {MAX_KEY_SET_BYTES} bytes", .0.display())]
    FileTooLarge(PathBuf),
    #[error("{}: {source}", path.display())]
    Thread { path: PathBuf, source: BlockingError },
    #[error(transparent)]
    Invalid(#[from] InvalidKeySet),
}

/// Why the file with the keys of an issuer is of no use, if a file has them. Blocks.
pub(super) fn find_file_problem(config: &IssuerConfig) -> Option<String> {
    let path = config.key_file()?;
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return Some(format!("{}: {error}", path.display())),
    };
    let keys = match config.secret_file {
        Some(_) => KeySet::of_secret(&text),
        None => KeySet::parse(&text, &config.algorithms),
    };
    let problem = keys.map_or_else(|error| Some(error.to_string()), |keys| keys.problem());
    problem.map(|problem| format!("{}: {problem}", path.display()))
}

impl Fetcher {
    async fn fetch(&self) -> Result<KeySet, KeySourceError> {
        let config = &self.config;
        if let Some(url) = &config.jwks {
            let authorities = match &config.ca {
                Some(path) => Some(self.read(path.clone()).await?),
                None => None,
            };
            return Ok(KeySet::parse(
                &fetch(url, authorities.as_deref(), &self.names).await?,
                &config.algorithms,
            )?);
        }
        let path = config.key_file().expect("checked with the configuration").to_owned();
        let text = self.read(path).await?;
        Ok(match config.secret_file {
            Some(_) => KeySet::of_secret(&text)?,
            None => KeySet::parse(&text, &config.algorithms)?,
        })
    }

    async fn read(&self, path: PathBuf) -> Result<Vec<u8>, KeySourceError> {
        let opened = path.clone();
        let read = move || {
            let mut text = vec![];
            std::fs::File::open(opened)?.take(MAX_KEY_SET_BYTES as u64 + 1).read_to_end(&mut text)?;
            io::Result::Ok(text)
        };
        match self.files.run("reads keys", READ_TIMEOUT, read).await {
            Ok(Ok(text)) if text.len() > MAX_KEY_SET_BYTES => Err(KeySourceError::FileTooLarge(path)),
            Ok(Ok(text)) => Ok(text),
            Ok(Err(source)) => Err(KeySourceError::File { path, source }),
            Err(source) => Err(KeySourceError::Thread { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Mutex;

    #[derive(Default)]
    struct ServerState {
        /// `None` if it is away.
        keys: Option<Vec<&'static str>>,
        fetches: u32,
    }

    /// A server with keys.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<ServerState>>);

    impl Server {
        fn set(&self, keys: Option<Vec<&'static str>>) {
            self.0.lock().unwrap().keys = keys;
        }

        fn fetches(&self) -> u32 {
            self.0.lock().unwrap().fetches
        }

        fn source(&self, is_file: bool) -> KeySource {
            let server = self.clone();
            KeySource::fetching("app".to_owned(), is_file, move || {
                let keys = {
                    let mut state = server.0.lock().unwrap();
                    state.fetches += 1;
                    state.keys.clone()
                };
                async move {
                    let Some(keys) = keys else { return Err(FetchError::Timeout.into()) };
                    let key = |kid| json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "A".repeat(43)});
                    let set = json!({"keys": keys.into_iter().map(key).collect::<Vec<_>>()}).to_string();
                    Ok(KeySet::parse(set.as_bytes(), &[Algorithm::EdDSA])?)
                }
            })
        }
    }

    async fn find(source: &KeySource, kid: &str) -> Result<Arc<VerifyingKey>, Refusal> {
        match source.find(Some(kid), Algorithm::EdDSA) {
            Ok(key) => Ok(key),
            Err(_) => source.refresh_and_find(Some(kid), Algorithm::EdDSA).await,
        }
    }

    async fn code(source: &KeySource, kid: &str) -> Option<ErrorCode> {
        find(source, kid).await.err().map(|refusal| refusal.code)
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_cause_a_fetch_in_thirty_seconds_and_no_verdict_before() {
        let server = Server::default();
        server.set(Some(vec!["a"]));
        let source = server.source(false);
        assert_eq!(code(&source, "a").await, None);
        server.set(Some(vec!["b"]));
        for _ in 0..100 {
            let refusal = find(&source, "b").await.unwrap_err();
            assert_eq!(refusal.code, ErrorCode::IssuerUnavailable);
            assert!((1000..=30_000).contains(&refusal.retry_after.unwrap()), "{refusal:?}");
        }
        assert_eq!(server.fetches(), 1);
        tokio::time::sleep(UNKNOWN_KEY_INTERVAL).await;
        assert_eq!(code(&source, "b").await, None, "it was fetched for this token");
        assert_eq!(
            code(&source, "a").await,
            Some(ErrorCode::IssuerUnavailable),
            "it may be newer than the keys"
        );
        tokio::time::sleep(UNKNOWN_KEY_INTERVAL).await;
        assert_eq!(code(&source, "a").await, Some(ErrorCode::InvalidToken), "fetched since it was presented");
        assert_eq!(server.fetches(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_again_and_serve_for_a_day_without_their_server() {
        let server = Server::default();
        server.set(Some(vec!["a"]));
        let source = server.source(false);
        assert_eq!(code(&source, "a").await, None);
        server.set(Some(vec!["a", "b"]));
        tokio::time::sleep(REFRESH_INTERVAL + RETRY_INTERVAL).await;
        assert!(source.find(Some("b"), Algorithm::EdDSA).is_ok(), "nobody had to ask");
        server.set(None);
        tokio::time::sleep(MAX_AGE - REFRESH_INTERVAL).await;
        assert_eq!(code(&source, "b").await, None);
        assert!(source.problem().is_some_and(|problem| problem.contains("no answer")));
        tokio::time::sleep(REFRESH_INTERVAL).await;
        assert_eq!(code(&source, "b").await, Some(ErrorCode::IssuerUnavailable));
        server.set(Some(vec!["b"]));
        tokio::time::sleep(UNKNOWN_KEY_INTERVAL).await;
        assert_eq!((code(&source, "b").await, source.problem()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_not_flooded_by_those_who_ask_for_keys() {
        let server = Server::default();
        let source = server.source(false);
        for _ in 0..600 {
            assert_eq!(code(&source, "a").await, Some(ErrorCode::IssuerUnavailable));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!((4..=8).contains(&server.fetches()), "{} in a minute", server.fetches());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_were_withdrawn_are_not_used() {
        let server = Server::default();
        server.set(Some(vec!["a"]));
        let (source, file) = (server.source(false), server.source(true));
        assert_eq!((code(&source, "a").await, code(&file, "a").await), (None, None));
        server.set(Some(vec![]));
        tokio::time::sleep(REFRESH_INTERVAL + RETRY_INTERVAL).await;
        assert!(code(&source, "a").await.is_some() && source.problem().is_some(), "the set is empty");
        server.set(Some(vec!["a"]));
        tokio::time::sleep(REFRESH_INTERVAL + RETRY_INTERVAL).await;
        assert_eq!(code(&file, "a").await, None);
        server.set(None);
        tokio::time::sleep(2 * FILE_INTERVAL).await;
        assert!(code(&file, "a").await.is_some(), "the file is gone");
        assert_eq!(code(&source, "a").await, None, "the server is only away");
    }
}
