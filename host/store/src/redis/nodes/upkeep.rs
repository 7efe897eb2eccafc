//! What a node does in Redis about every second while it holds its lease: reads notices, and writes or checks
//! again what may be missing. Runs beside the renewal of the lease, which never waits for it.

use crate::{
    ConnectionId, Event, Unavailable,
    redis::{
        connecting::claim_schema,
        context::{Context, faults::NodeFault},
        nodes::{
            lease::{Leased, RENEWAL_INTERVAL},
            session_audit::SessionAudit,
        },
        pubsub::listener_request::ListenerRequest,
        replies,
    },
};
use futures_util::future::join_all;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// How long a node reads notices that are addressed to a former name. By then its sessions are known under the
/// new name, or have been audited.
const FORMER_NAME_TTL: Duration = Duration::from_secs(20);
/// How often one of the nodes removes rooms that are gone from the list of rooms.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// How often rooms are checked that may be gone.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the rooms with members on this node are added to the list of rooms again, in case Redis lost the
/// list.
const ROOM_LISTING_INTERVAL: Duration = Duration::from_secs(60);
/// How often everything is written again, so that the keys of what is in use do not expire.
const REWRITE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// The lease was renewed.
pub(super) struct Renewal {
    /// The name of the node until now, if it has a new one. Then Redis may have lost data.
    pub former_name: Option<Arc<String>>,
}

pub(super) struct Upkeep {
    rewritten: Instant,
    pruned: Instant,
    checked: Instant,
    listed: Instant,
    /// Former names of this node, and when each of them was given up.
    former_names: Vec<(Arc<String>, Instant)>,
    /// Redis may have lost the schema, so it must be claimed again.
    must_claim_schema: bool,
    audit: SessionAudit,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            rewritten: now,
            pruned: now,
            checked: now,
            listed: now,
            former_names: Vec::new(),
            must_claim_schema: false,
            audit: SessionAudit::default(),
        }
    }

    /// Runs after each renewal, and once for several that come while it is busy. Ends with the lease's task.
    pub(super) async fn run(mut self, leased: Weak<Leased>, mut renewals: mpsc::UnboundedReceiver<Renewal>) {
        while let Some(renewal) = renewals.recv().await {
            self.note(renewal);
            while let Ok(renewal) = renewals.try_recv() {
                self.note(renewal);
            }
            let Some(leased) = leased.upgrade() else { return };
            self.run_once(&leased).await;
        }
    }

    fn note(&mut self, Renewal { former_name }: Renewal) {
        if let Some(name) = former_name {
            self.former_names.push((name, Instant::now()));
            self.must_claim_schema = true;
        }
    }

    async fn run_once(&mut self, leased: &Leased) {
        let Leased { context, sessions, room_index, listener } = leased;
        self.audit.check_next(sessions, RENEWAL_INTERVAL);
        if is_due(&mut self.pruned, PRUNE_INTERVAL) {
            room_index.prune(PRUNE_INTERVAL);
        }
        if is_due(&mut self.checked, ROOM_CHECK_INTERVAL) {
            room_index.check();
        }
        if is_due(&mut self.rewritten, REWRITE_INTERVAL) {
            sessions.rewrite_all();
            context.connections.rewrite();
        }
        if is_due(&mut self.listed, ROOM_LISTING_INTERVAL) {
            listener.send(ListenerRequest::ListRooms).ok();
        }
        self.former_names.retain(|(_, since)| since.elapsed() < FORMER_NAME_TTL);
        let node = context.node.get();
        let names = self.former_names.iter().map(|(name, _)| name).chain([&node]);
        let notices = join_all(names.map(|name| read_takeover_notices(context, name)));
        let claim = async {
            match self.must_claim_schema {
                true => reclaim_schema(context).await,
                false => true,
            }
        };
        // All at once: each of them may wait for a server that does not answer.
        let (read, is_claimed, (), ()) =
            tokio::join!(notices, claim, context.owned.remove_strays(), room_index.write());
        self.must_claim_schema = !is_claimed;
        for error in read.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "could not read takeover notices; trying again");
        }
    }
}

/// Whether something is due that was last done at `last`, which is set if it is.
fn is_due(last: &mut Instant, interval: Duration) -> bool {
    let is_due = last.elapsed() > interval;
    if is_due {
        *last = Instant::now();
    }
    is_due
}

/// Reads which connections have lost their session to another node. `name` is a name of this node.
async fn read_takeover_notices(context: &Context, name: &str) -> Result<(), Unavailable> {
    let command = vec![context.names.takeovers(name).into(), "1000".into()];
    let notices = context.link.command("LPOP", command).await?;
    let notices = if notices.is_null() { vec![] } else { replies::texts(notices)? };
    for connection in notices.iter().filter_map(|connection| ConnectionId::parse(connection)) {
        (context.feed)(Event::TakenOver(connection));
    }
    Ok(())
}

/// If Redis has lost everything, a node of another version may have started to use it. Returns whether the
/// keys have the schema of this version.
async fn reclaim_schema(context: &Context) -> bool {
    let Ok(claimed) = claim_schema(&context.link, &context.names).await else { return false };
    let is_claimed = claimed.is_ok();
    let foreign = claimed.err().map(|mismatch| mismatch.to_string());
    if context.faults.set(NodeFault::Schema, foreign.clone()) {
        tracing::error!("{}", foreign.unwrap_or_default());
    }
    is_claimed
}
