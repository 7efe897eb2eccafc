//! How a node or a command comes to its Redis: connects, says what is in the way, and sees whose keys are there.

use crate::{
    StoreMetrics, Unavailable,
    redis::{
        answer,
        link::{self, Link},
        names::Names,
        site::Site,
    },
};
use fred::types::config::Server;
use switchyard_process::vital::VitalTasks;
use tokio::sync::mpsc;

/// Of the keys. A node refuses to start on keys of another.
pub(super) const SCHEMA: &str = "3";

/// Says what a node that starts waits for: each error once, and again now and then.
pub(super) struct Waiting<'a, Says> {
    site: &'a Site,
    /// Is told each time.
    status: Says,
    said: String,
    count: u32,
}

impl<'a, Says: Fn(&str)> Waiting<'a, Says> {
    pub(super) fn new(site: &'a Site, status: Says) -> Self {
        Self { site, status, said: String::new(), count: 0 }
    }

    pub(super) fn says(&mut self, error: &str) {
        let url = &self.site.url;
        if error != self.said || self.count.is_multiple_of(10) {
            tracing::warn!(store = %url, error, "waiting for the store");
        }
        (self.status)(&format!("waiting for the store {url}: {error}"));
        (self.said, self.count) = (error.to_owned(), self.count + 1);
    }

    pub(super) async fn pauses(&mut self, error: &Unavailable) {
        self.says(&error.0);
        tokio::time::sleep(link::START_RETRY_DELAY).await;
    }
}

/// Waits until Redis is there and answers, and compares the schema. The error tells why these keys are not for this version.
pub(super) async fn open<Says: Fn(&str)>(
    waiting: &mut Waiting<'_, Says>,
    metrics: StoreMetrics,
    vitals: &VitalTasks,
) -> Result<(Link, link::LinkEvents, mpsc::UnboundedReceiver<Server>), String> {
    let url = &waiting.site.url;
    let (link, signals, connected) = Link::open(url, metrics, vitals, |error| waiting.says(error))
        .await
        .map_err(|error| error.to_string())?;
    link.check_version().await.map_err(|error| error.to_string())?;
    let names = Names::of(waiting.site);
    let claimed = loop {
        match claim_schema(&link, &names).await {
            Ok(claimed) => break claimed,
            Err(error) => waiting.pauses(&error).await,
        }
    };
    claimed.map_err(|error| format!("{url}: {error}"))?;
    Ok((link, signals, connected))
}

/// Says which schema the keys follow where nobody has. The inner error tells why they are not for this version.
pub(super) async fn claim_schema(link: &Link, names: &Names) -> Result<Result<(), String>, Unavailable> {
    let key = names.schema();
    link.command("SET", vec![key.as_str().into(), SCHEMA.into(), "NX".into()]).await?;
    let found = answer::text(link.command("GET", vec![key.as_str().into()]).await?)?;
    Ok(match &*found {
        SCHEMA => Ok(()),
        found => Err(format!(
            "{key} says that the keys are of schema {found}, this version has schema {SCHEMA}: run the version that they \
             belong to, or choose another store.prefix"
        )),
    })
}
