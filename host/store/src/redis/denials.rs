//! Bans and revocations in Redis, which hold on every node. Enforces none.

use crate::{
    Revision, Unavailable,
    denial::{
        Denial, DenialEntries, DenialEntry, DenialRegistry, DenialTarget, DenyError, Period, StoredDenials,
        merge,
    },
    redis::{
        RedisStore,
        context::faults::NodeFault,
        replies,
        revision::REVISION,
        scripts::denials::{self, DenialWrite, DenialsWritten},
    },
};
use switchyard_protocol::unix_ms;

#[async_trait::async_trait]
impl DenialRegistry for RedisStore {
    async fn read(&self, known: &StoredDenials) -> Result<Option<StoredDenials>, Unavailable> {
        let names = &self.context().names;
        let arguments = vec![names.denials().into(), REVISION.into()];
        let revision = self.context().link.command("HGET", arguments).await?;
        let revision = if revision.is_null() { Revision::none() } else { Revision(replies::text(revision)?) };
        let now = unix_ms();
        // If the registry is gone, it has lost all that this node knows.
        let has_lost_all = || known.entries.values().any(|entry| now < entry.forgotten_at);
        if revision == known.revision && (revision != Revision::none() || !has_lost_all()) {
            return Ok(None);
        }
        let (mut revision, found) = self.read_denials().await?;
        let (entries, missing) = merge(&known.entries, found, now);
        let mut lost = None;
        if !missing.is_empty() {
            let count = missing.len();
            lost = self.restore_denials(&missing).await.err().map(|error| {
                format!(
                    "the store has lost {count} of its bans and revocations; this node still enforces them, but could not \
                     write them again: {error}"
                )
            });
            if lost.is_some() {
                // So that the next call tries again.
                revision = Revision::none();
            } else {
                tracing::warn!(
                    count,
                    "the store had lost bans or revocations; this node has written them again"
                );
            }
        }
        self.context().faults.set(NodeFault::Denials, lost);
        // If entries were written, the revision has changed, and the next call reads all of them once more.
        Ok(Some(StoredDenials::new(revision, entries, now)))
    }

    async fn deny(&self, denial: &Denial) -> Result<(), DenyError> {
        let Denial { since, until, .. } = *denial;
        let period = Some(Period { since, until });
        match self.write_denial(&denial.target, Some(until), period).await? {
            DenialsWritten::All(_) => Ok(()),
            DenialsWritten::Full => Err(DenyError::Full),
            DenialsWritten::Ended => Err(DenyError::Ended),
        }
    }

    async fn lift(&self, target: &DenialTarget) -> Result<bool, Unavailable> {
        Ok(matches!(self.write_denial(target, None, None).await?, DenialsWritten::All(1)))
    }
}

impl RedisStore {
    async fn read_denials(&self) -> Result<(Revision, DenialEntries), Unavailable> {
        let all = self.context().link.command("HGETALL", vec![self.context().names.denials().into()]).await?;
        let (mut revision, mut entries) = (Revision::none(), DenialEntries::new());
        for (name, text) in replies::pairs(all)? {
            match (&*name, DenialEntry::parse(&text)) {
                (REVISION, _) => revision = Revision(text),
                (_, Some(entry)) => drop(entries.insert(name, entry)),
                (_, None) => {
                    tracing::error!("cannot read a ban in the store; a later version may have written it");
                }
            }
        }
        Ok((revision, entries))
    }

    async fn write_denial(
        &self,
        target: &DenialTarget,
        forgotten_at: Option<u64>,
        period: Option<Period>,
    ) -> Result<DenialsWritten, Unavailable> {
        let name = target.to_string();
        let entry = DenialWrite { name: &name, version: None, forgotten_at, period };
        denials::write(&self.context().link, &self.context().names, [entry]).await
    }

    /// Writes lost entries again, unless another node has.
    async fn restore_denials(&self, missing: &DenialEntries) -> Result<(), Unavailable> {
        let entries = missing.iter().map(|(name, entry)| DenialWrite {
            name,
            version: Some(entry.version),
            forgotten_at: Some(entry.forgotten_at),
            period: entry.period,
        });
        match denials::write(&self.context().link, &self.context().names, entries).await? {
            // None of them is new, so that it does not matter whether they have ended.
            DenialsWritten::All(_) | DenialsWritten::Ended => Ok(()),
            DenialsWritten::Full => Err(Unavailable(DenyError::Full.to_string())),
        }
    }
}
