//! The nodes that the feed can publish to, and which of them to use when a connection is lost.

use anyhow::{Context, bail};
use std::time::Duration;
use switchyard::{
    client::{ConnectArgs, ConnectionLoss, WireClient},
    note,
};
use tokio::time::{Instant, sleep};

/// How long to wait for one of several nodes, if it asks to wait.
const MAX_NODE_WAIT: Duration = Duration::from_secs(5);
/// How long to retry while none of several nodes can be reached.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// The delay before all nodes are tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

pub struct Nodes {
    nodes: Vec<ConnectArgs>,
    /// The index of the node in use.
    current: usize,
}

impl Nodes {
    pub fn new(first: ConnectArgs, others: Vec<String>) -> Self {
        let others: Vec<_> = others.into_iter().map(|url| ConnectArgs { url, ..first.clone() }).collect();
        Self { nodes: [vec![first], others].concat(), current: 0 }
    }

    /// Connects to the current node. If it asks to wait and is the only one, this waits as long as necessary.
    pub async fn open(&self) -> anyhow::Result<WireClient> {
        let node = &self.nodes[self.current];
        let (client, connected) = WireClient::open(node, self.has_others().then_some(MAX_NODE_WAIT)).await?;
        note(format_args!("publishing to {} as {}", node.url, connected.principal.id));
        Ok(client)
    }

    /// Reconnects to the node, or continues on another with a new session. A publisher needs nothing from its
    /// old session.
    pub async fn recover(&mut self, client: &mut WireClient, loss: ConnectionLoss) -> anyhow::Result<()> {
        if !self.has_others() || !is_node_failure(&loss) {
            client.recover(loss).await?;
            return Ok(());
        }
        note(format_args!("{}: {loss}; continuing on another node", self.nodes[self.current].url));
        sleep(requested_delay(&loss)).await;
        *client = self.open_another().await?;
        Ok(())
    }

    async fn open_another(&mut self) -> anyhow::Result<WireClient> {
        let began = Instant::now();
        loop {
            let mut last_error = None;
            for _ in 0..self.nodes.len() {
                self.current = (self.current + 1) % self.nodes.len();
                match self.open().await {
                    Ok(client) => return Ok(client),
                    Err(error) => last_error = Some(error),
                }
            }
            let error = last_error.context("there are no nodes")?;
            if began.elapsed() > GIVE_UP_AFTER {
                bail!(
                    "no node could be reached for {} s; the last error: {error:#}",
                    GIVE_UP_AFTER.as_secs()
                );
            }
            note(format_args!("{error:#}; trying all nodes again in {} s", RETRY_DELAY.as_secs()));
            sleep(RETRY_DELAY).await;
        }
    }

    fn has_others(&self) -> bool {
        self.nodes.len() > 1
    }
}

/// Whether the node failed, so that another may do better. With a wrong key, for example, it would not.
fn is_node_failure(loss: &ConnectionLoss) -> bool {
    match loss {
        ConnectionLoss::Broken(_) | ConnectionLoss::Silent(_) => true,
        ConnectionLoss::Closed { code, .. } => (4500..4700).contains(code),
        ConnectionLoss::Permanent(_) => false,
    }
}

/// The delay that a draining node asks for. It differs between clients, so that they do not all reconnect at
/// once.
fn requested_delay(loss: &ConnectionLoss) -> Duration {
    match loss {
        ConnectionLoss::Closed { code: 4600..=4699, reason, .. } => {
            reason.parse().map_or(RETRY_DELAY, Duration::from_millis).min(MAX_NODE_WAIT)
        }
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16, reason: &str) -> ConnectionLoss {
        ConnectionLoss::Closed { code, reason: reason.into(), error: None }
    }

    #[test]
    fn another_node_is_tried_only_after_a_node_failure() {
        for loss in [
            ConnectionLoss::Broken("reset".into()),
            ConnectionLoss::Silent(MAX_NODE_WAIT),
            closed(4503, ""),
            closed(4600, "9"),
        ] {
            assert!(is_node_failure(&loss), "{loss:?}");
        }
        for loss in
            [ConnectionLoss::Permanent("no".into()), closed(4401, ""), closed(4429, ""), closed(1009, "")]
        {
            assert!(!is_node_failure(&loss), "{loss:?}");
        }
    }

    #[test]
    fn the_delay_of_a_draining_node_is_respected() {
        assert_eq!(requested_delay(&closed(4600, "120")), Duration::from_millis(120));
        assert_eq!(requested_delay(&closed(4600, "99999999")), MAX_NODE_WAIT);
        assert_eq!(requested_delay(&closed(4508, "120")), Duration::ZERO);
    }
}
