//! The scripts by which nodes know of each other: leases, and notices of takeovers.

use crate::{
    ConnectionId, Unavailable,
    redis::{arguments, link::Link, names::Names, replies::Elements},
};
use std::{sync::Arc, time::Duration};

script!(RENEW_LEASE = "renew_lease");
script!(NOTIFY_TAKEOVER = "notify_takeover");

/// How long a notice of a takeover is kept.
const NOTICE_TTL: Duration = Duration::from_secs(60);

/// How a node renews its lease.
pub(crate) struct LeaseRenewal<'a> {
    pub node: &'a str,
    pub lease: Duration,
    /// How long the node has to clean up what it is given, before another node is given it.
    pub claim: Duration,
    /// The maximum number of expired sessions to be given.
    pub sessions: u64,
    /// Takes a new lease if the node has none, which replaces that of its former name (`""`: there is none).
    pub former: Option<&'a str>,
    /// In milliseconds by Redis' clock. After it nobody receives the reply, so nothing is given out.
    pub deadline: u64,
    /// Cluster time in milliseconds, or 0 if the node does not know it.
    pub cluster_time: u64,
}

/// Entries of a list with their scores.
pub(crate) type Scored = Vec<(Arc<str>, u64)>;

pub(crate) struct LeaseRenewalReply {
    /// Redis' clock, in Unix microseconds.
    pub time: u64,
    /// In milliseconds.
    pub cluster_time: u64,
    /// Until when the lease was held, in cluster time. `None`: it was not held, and nothing was done.
    pub held_until: Option<u64>,
    /// The number of nodes that hold a lease.
    pub nodes: u64,
    /// Dead nodes that this node must clean up.
    pub dead: Scored,
    /// Sessions with an expired time to live that this node must delete.
    pub ends: Scored,
}

/// Renews the lease of a node, and gives it what other nodes have left behind.
pub(crate) async fn renew(
    link: &Link,
    names: &Names,
    renewal: LeaseRenewal<'_>,
) -> Result<LeaseRenewalReply, Unavailable> {
    let keys = vec![names.leases(), names.dead(), names.ends(), names.clock()];
    let arguments = vec![
        renewal.node.into(),
        arguments::millis(renewal.lease),
        arguments::millis(renewal.claim),
        arguments::integer(renewal.sessions),
        arguments::integer(renewal.former.is_some().into()),
        renewal.former.unwrap_or_default().into(),
        arguments::integer(renewal.deadline),
        arguments::integer(renewal.cluster_time),
    ];
    let mut reply = Elements::of(link.run(&RENEW_LEASE, keys, arguments).await?)?;
    Ok(LeaseRenewalReply {
        time: reply.number()?,
        cluster_time: reply.number()?,
        held_until: reply.text()?.parse().ok(),
        nodes: reply.number()?,
        dead: scored(&reply.texts()?),
        ends: scored(&reply.texts()?),
    })
}

fn scored(parts: &[Arc<str>]) -> Scored {
    parts.chunks_exact(2).filter_map(|pair| Some((pair[0].clone(), pair[1].parse().ok()?))).collect()
}

/// Tells a node that another node has taken over the session of one of its connections.
pub(crate) async fn notify_takeover(
    link: &Link,
    names: &Names,
    node: &str,
    connection: ConnectionId,
) -> Result<(), Unavailable> {
    let arguments = vec![connection.to_string().into(), arguments::millis(NOTICE_TTL)];
    link.run(&NOTIFY_TAKEOVER, vec![names.takeovers(node)], arguments).await.map(drop)
}
