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
/// Minimum time between two fetches because of unknown keys. Anybody can name one.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// How soon keys are fetched again after a failure, at first. The time doubles up to [`UNKNOWN_KEY_INTERVAL`].
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long keys are used that could not be fetched again.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long a token waits for a fetch, which takes less.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long reading a file may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known about the keys.
#[derive(Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    /// When the keys were last fetched.
    fetched: Option<Instant>,
    /// When the newest attempt began, and how many there were.
    attempted: Option<Instant>,
    attempts: u64,
    /// Why the newest attempt failed.
    failure: Option<Arc<str>>,
}

/// Where the keys come from, and how to have them fetched.
pub(super) struct KeySource {
    issuer: String,
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    is_file: bool,
    _task: AbortOnDropHandle<()>,
}

impl KeySource {
    /// Starts to fetch the keys of an issuer, until this is dropped.
    pub(super) fn start(config: &Arc<IssuerConfig>) -> Self {
        let (sender, known) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        let fetcher = Fetcher {
            config: config.clone(),
            files: SerialRunner::default(),
            names: SerialRunner::default(),
        };
        let is_file = config.key_file().is_some();
        let task = tokio::spawn(run(fetcher, sender, wanted.clone(), is_file));
        Self { issuer: config.name.clone(), known, wanted, is_file, _task: AbortOnDropHandle::new(task) }
    }

    /// The key that a token names, among those that were fetched.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<VerifyingKey>, MissingKey> {
        self.known.borrow().find(id, algorithm)
    }

    /// Has the keys fetched, unless they were a moment ago, and looks for the key again. A refusal with `retryAfter` says
    /// nothing about the token.
    pub(super) async fn refresh_and_find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<VerifyingKey>, Refusal> {
        let mut known = self.known.clone();
        let asked = Instant::now();
        let attempts = {
            let known = known.borrow();
            if known.next_allowed(self.is_file).is_some_and(|at| at > asked) {
                return Err(self.no_verdict(&known));
            }
            known.attempts
        };
        self.wanted.notify_one();
        let attempted = timeout(WAIT_TIMEOUT, known.wait_for(|known| known.attempts > attempts)).await;
        let Ok(Ok(known)) = attempted else { return Err(self.no_verdict(&self.known.borrow())) };
        match known.find(id, algorithm) {
            Ok(key) => Ok(key),
            // What was fetched before the token was presented may lack a key that is newer.
            Err(_) if known.failure.is_some() || known.attempted < Some(asked) => {
                Err(self.no_verdict(&known))
            }
            Err(_) => {
                let issuer = &self.issuer;
                Err(super::invalid(format_args!(
                    "issuer '{issuer}' has no key with its key id (kid) for {algorithm}"
                )))
            }
        }
    }

    fn no_verdict(&self, known: &Known) -> Refusal {
        let allowed_at = known.next_allowed(self.is_file);
        let wait = allowed_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let message = format!("the keys of issuer '{}' are not known at the moment; try again", self.issuer);
        Refusal::retry(ErrorCode::IssuerUnavailable, message, wait.as_millis() as u64 + 1)
    }

    /// Why the keys are missing or old.
    pub(super) fn problem(&self) -> Option<String> {
        let known = self.known.borrow();
        let failure = known.failure.as_ref()?;
        Some(format!("the keys of issuer '{}': {failure}", self.issuer))
    }
}

impl Known {
    /// When the keys may be fetched because of an unknown one. `None`: now.
    fn next_allowed(&self, is_file: bool) -> Option<Instant> {
        // Without any keys, or with a file, that costs nobody else anything.
        let is_cheap = is_file || self.keys.is_none();
        let interval = if is_cheap { RETRY_INTERVAL } else { UNKNOWN_KEY_INTERVAL };
        self.attempted.map(|attempted| attempted + interval)
    }

    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<VerifyingKey>, MissingKey> {
        let is_fresh = self.fetched.is_some_and(|fetched| fetched.elapsed() < MAX_AGE);
        let keys = self.keys.as_ref().filter(|_| is_fresh).ok_or(MissingKey::Unknown)?;
        keys.find(id, algorithm)
    }
}

/// Fetches keys for ever.
async fn run(fetcher: Fetcher, known: watch::Sender<Known>, wanted: Arc<Notify>, is_file: bool) {
    let mut retry = RETRY_INTERVAL;
    loop {
        let started = Instant::now();
        let fetched = fetcher.fetch().await;
        let name = &fetcher.config.name;
        let next = match &fetched {
            Ok(_) if is_file => started + FILE_INTERVAL,
            Ok(_) => started + REFRESH_INTERVAL,
            Err(_) => started + retry,
        };
        retry = if fetched.is_ok() { RETRY_INTERVAL } else { UNKNOWN_KEY_INTERVAL.min(2 * retry) };
        known.send_modify(|known| {
            known.attempts += 1;
            known.attempted = Some(started);
            let failure = match fetched {
                Ok(keys) => {
                    (known.keys, known.fetched) = (Some(Arc::new(keys)), Some(started));
                    None
                }
                Err(error) => Some(Arc::<str>::from(error.to_string())),
            };
            if failure != known.failure {
                match &failure {
                    Some(reason) => tracing::error!(issuer = %name, "its keys cannot be read; those that were read before stay valid for a day: {reason}"),
                    None => tracing::info!(issuer = %name, "its keys were read again"),
                }
            }
            known.failure = failure;
        });
        let allowed_at = known.borrow().next_allowed(is_file).expect("there was an attempt");
        let asked = async {
            wanted.notified().await;
            // Whoever asked during the attempt gets no verdict from it.
            while Instant::now() < allowed_at {
                wanted.notified().await;
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = asked => {}
        }
    }
}

struct Fetcher {
    config: Arc<IssuerConfig>,
    files: SerialRunner,
    /// Resolves the name of the host.
    names: SerialRunner,
}

/// Why there are no new keys. Each names the setting.
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
