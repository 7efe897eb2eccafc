//! Connecting to Redis when a node or a command starts: waits for Redis, reports why that takes long, and
//! checks that the keys there have the schema of this version.

use crate::{
    StoreMetrics, Unavailable,
    redis::{
        link::{self, Link},
        names::Names,
        open_error::{OpenError, SchemaMismatch},
        replies,
        site::Site,
    },
};
use fred::types::config::Server;
use switchyard_process::vital::VitalTasks;
use tokio::sync::mpsc;

/// The schema of the keys. A node does not start on keys of another schema.
pub(super) const SCHEMA: &str = "7";
/// After how many attempts with the same error that error is logged again.
const ATTEMPTS_PER_WARNING: u32 = 10;

/// Reports why a node that starts cannot use its store yet. Logs each error once, and again every
/// [`ATTEMPTS_PER_WARNING`] attempts.
pub(super) struct StartupReporter<'a, Report> {
    site: &'a Site,
    /// Called with each error, for `/readyz`.
    report: Report,
    last_error: String,
    attempts: u32,
}

impl<'a, Report: Fn(&str)> StartupReporter<'a, Report> {
    pub(super) fn new(site: &'a Site, report: Report) -> Self {
        Self { site, report, last_error: String::new(), attempts: 0 }
    }

    pub(super) fn report(&mut self, error: &str) {
        let url = &self.site.url;
        if error != self.last_error || self.attempts.is_multiple_of(ATTEMPTS_PER_WARNING) {
            tracing::warn!(store = %url, error, "waiting for the store");
        }
        (self.report)(&format!("waiting for the store {url}: {error}"));
        (self.last_error, self.attempts) = (error.to_owned(), self.attempts + 1);
    }

    /// Reports the error, and waits until the next attempt is due.
    pub(super) async fn report_and_wait(&mut self, error: &Unavailable) {
        self.report(&error.0);
        tokio::time::sleep(link::START_RETRY_DELAY).await;
    }
}

/// Connects as soon as Redis answers, and checks the schema of its keys. The receiver gets each server whose
/// connection for commands is established from then on.
pub(super) async fn connect<Report: Fn(&str)>(
    reporter: &mut StartupReporter<'_, Report>,
    metrics: StoreMetrics,
    vitals: &VitalTasks,
) -> Result<(Link, link::LinkEvents, mpsc::UnboundedReceiver<Server>), OpenError> {
    let url = &reporter.site.url;
    let (link, events, connected) = Link::open(url, metrics, vitals, |error| reporter.report(error)).await?;
    link.check_version().await?;
    let names = Names::of(reporter.site);
    let claimed = loop {
        match claim_schema(&link, &names).await {
            Ok(claimed) => break claimed,
            Err(error) => reporter.report_and_wait(&error).await,
        }
    };
    claimed.map_err(|mismatch| OpenError::Schema { url: url.to_string(), mismatch })?;
    Ok((link, events, connected))
}

/// Writes the schema of this version unless the keys already have one. The inner error is that they have
/// another schema.
pub(super) async fn claim_schema(
    link: &Link,
    names: &Names,
) -> Result<Result<(), SchemaMismatch>, Unavailable> {
    let key = names.schema();
    link.command("SET", vec![key.as_str().into(), SCHEMA.into(), "NX".into()]).await?;
    let found = replies::text(link.command("GET", vec![key.as_str().into()]).await?)?;
    Ok(match &*found {
        SCHEMA => Ok(()),
        found => Err(SchemaMismatch { key, found: found.to_owned() }),
    })
}
