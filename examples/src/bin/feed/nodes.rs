//! The nodes that the feed may publish to, and on which it goes on when it loses one.

use anyhow::{Context, bail};
use std::time::Duration;
use switchyard::client::{Client, Connect, Lost, note};
use tokio::time::{Instant, sleep};

/// How long one of several nodes is waited for when it asks for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all of several nodes may be away.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

pub struct Nodes {
    connects: Vec<Connect>,
    at: usize,
}

impl Nodes {
    pub fn new(first: Connect, others: Vec<String>) -> Self {
        let others: Vec<_> = others.into_iter().map(|url| Connect { url, ..first.clone() }).collect();
        Self { connects: [vec![first], others].concat(), at: 0 }
    }

    /// A node that is alone is waited for as long as it takes.
    pub async fn open(&self) -> anyhow::Result<Client> {
        let connect = &self.connects[self.at];
        let (client, connected) = Client::open(connect, self.has_others().then_some(PATIENCE)).await?;
        note(format_args!("feeding {} as {}", connect.url, connected.principal.id));
        Ok(client)
    }

    /// Comes back to the node as the loss asks, or goes on at another. A publisher is owed nothing that a new
    /// session would miss.
    pub async fn recover(&mut self, client: &mut Client, lost: Lost) -> anyhow::Result<()> {
        if !self.has_others() || !is_the_nodes(&lost) {
            client.recover(lost).await?;
            return Ok(());
        }
        note(format_args!("{}: {lost}; going on at another node", self.connects[self.at].url));
        sleep(asked(&lost)).await;
        *client = self.another().await?;
        Ok(())
    }

    async fn another(&mut self) -> anyhow::Result<Client> {
        let began = Instant::now();
        loop {
            let mut refused = None;
            for _ in 0..self.connects.len() {
                self.at = (self.at + 1) % self.connects.len();
                match self.open().await {
                    Ok(client) => return Ok(client),
                    Err(error) => refused = Some(error),
                }
            }
            let why = refused.context("there are no nodes")?;
            if began.elapsed() > GIVE_UP {
                bail!("no node answered for {} s; the last: {why:#}", GIVE_UP.as_secs());
            }
            note(format_args!("{why:#}; trying all nodes again in {} s", PAUSE.as_secs()));
            sleep(PAUSE).await;
        }
    }

    fn has_others(&self) -> bool {
        self.connects.len() > 1
    }
}

/// Another node may do better. With a wrong key, for one, it would not.
fn is_the_nodes(lost: &Lost) -> bool {
    match lost {
        Lost::Broken(_) | Lost::Silent(_) => true,
        Lost::Closed { code, .. } => (4500..4700).contains(code),
        Lost::Final(_) => false,
    }
}

/// A draining node tells each client another time, so that the other nodes are not stormed.
fn asked(lost: &Lost) -> Duration {
    match lost {
        Lost::Closed { code: 4600..=4699, reason, .. } => {
            reason.parse().map_or(PAUSE, Duration::from_millis).min(PATIENCE)
        }
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16, reason: &str) -> Lost {
        Lost::Closed { code, reason: reason.into(), because: None }
    }

    #[test]
    fn only_a_nodes_own_trouble_is_left_behind() {
        for lost in
            [Lost::Broken("reset".into()), Lost::Silent(PATIENCE), closed(4503, ""), closed(4600, "9")]
        {
            assert!(is_the_nodes(&lost), "{lost:?}");
        }
        for lost in [Lost::Final("no".into()), closed(4401, ""), closed(4429, ""), closed(1009, "")] {
            assert!(!is_the_nodes(&lost), "{lost:?}");
        }
    }

    #[test]
    fn a_draining_node_says_when() {
        assert_eq!(asked(&closed(4600, "120")), Duration::from_millis(120));
        assert_eq!(asked(&closed(4600, "99999999")), PATIENCE);
        assert_eq!(asked(&closed(4508, "120")), Duration::ZERO);
    }
}
