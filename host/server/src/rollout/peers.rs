//! What the other nodes report about their plugins, and how that differs from this node. It is read every few seconds.
//! What differs only while a change reaches the nodes one after another is not shown.

use super::{NodeReport, PluginReport, Rollout};
use crate::hub::Ungoverned;
use std::sync::Mutex;
use switchyard_process::lock::LockExt;
use switchyard_store::Unavailable;

/// A difference is shown if it was there at this many readings in a row.
const MIN_READINGS: usize = 2;
/// How many nodes a sentence names.
const MAX_NAMED_NODES: usize = 5;
/// How many digits of a digest a sentence shows.
const SHOWN_DIGITS: usize = 12;

/// What the other nodes reported when that was last read.
#[derive(Default)]
pub(super) struct Peers {
    last: Mutex<Reading>,
}

#[derive(Default)]
struct Reading {
    /// Whether rooms without a plugin are open on one of them.
    opens_ungoverned: bool,
    /// The differences, and at how many readings in a row each was there.
    differences: Vec<(Difference, usize)>,
}

/// How a plugin on other nodes differs from that on this node.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    plugin: String,
    kind: DifferenceKind,
    /// The addresses of the nodes.
    hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum DifferenceKind {
    Missing,
    /// The SHA-256 of the version there and here, and why the nodes do not follow, if they say so.
    Version {
        there: String,
        here: String,
        reason: Option<String>,
    },
    /// The digests of the settings there and here.
    Settings {
        there: String,
        here: String,
    },
}

impl Difference {
    fn describe(&self) -> String {
        let Self { plugin, kind, hosts } = self;
        let short = |digest: &str| digest.get(..SHOWN_DIGITS).unwrap_or(digest).to_owned();
        let mut nodes = hosts.iter().take(MAX_NAMED_NODES).cloned().collect::<Vec<_>>().join(", ");
        if let Some(more) = hosts.len().checked_sub(MAX_NAMED_NODES).filter(|more| *more > 0) {
            nodes += &format!(" and {more} more");
        }
        match kind {
            DifferenceKind::Missing => {
                format!(
                    "plugin '{plugin}' governs rooms here and does not run on {nodes}; its rooms are closed there"
                )
            }
            DifferenceKind::Version { there, here, reason } => {
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                let (there, here) = (short(there), short(here));
                format!("plugin '{plugin}' has version {there} on {nodes}, and {here} here{reason}")
            }
            DifferenceKind::Settings { there, here } => {
                let (there, here) = (short(there), short(here));
                format!(
                    "plugin '{plugin}' has other settings on {nodes}: their digest is {there}, and {here} here"
                )
            }
        }
    }
}

impl Rollout {
    /// Reads what the other nodes report.
    pub(crate) async fn read_peers(&self) -> Result<(), Unavailable> {
        let reports = self.registry().reports().await?;
        let parse = |(_, report): &(_, String)| serde_json::from_str::<NodeReport>(report).ok();
        let others: Vec<_> =
            reports.iter().filter_map(parse).filter(|report| !self.governance.is_own(report)).collect();
        self.peers.record(&self.report(), &others);
        Ok(())
    }

    /// Whether this node has made a report.
    pub(crate) fn is_own_report(&self, report: &NodeReport) -> bool {
        self.governance.is_own(report)
    }

    /// Whether rooms without a plugin are open on this node, or were on another one when its report was last read.
    pub(crate) fn opens_ungoverned(&self) -> bool {
        self.ungoverned == Ungoverned::Open || self.peers.last.locked().opens_ungoverned
    }
}

impl Peers {
    fn record(&self, own: &NodeReport, others: &[NodeReport]) {
        let mut last = self.last.locked();
        let known = std::mem::take(&mut last.differences);
        let count = |difference: Difference| {
            let before = known.iter().find(|(known, _)| *known == difference);
            let readings = 1 + before.map_or(0, |(_, readings)| *readings);
            (difference, readings)
        };
        last.differences = differences(own, others).into_iter().map(count).collect();
        last.opens_ungoverned = others.iter().any(|report| report.opens_ungoverned);
    }

    /// How other nodes differ from this one, one sentence each.
    pub(super) fn drift(&self) -> Vec<String> {
        let last = self.last.locked();
        let lasting = last.differences.iter().filter(|(_, readings)| *readings >= MIN_READINGS);
        lasting.map(|(difference, _)| difference.describe()).collect()
    }
}

fn differences(own: &NodeReport, others: &[NodeReport]) -> Vec<Difference> {
    let mut differences: Vec<Difference> = vec![];
    for (plugin, here) in &own.plugins {
        for other in others {
            for kind in kinds(here, other.plugins.get(plugin)) {
                let known =
                    differences.iter_mut().find(|known| known.plugin == *plugin && known.kind == kind);
                match known {
                    Some(known) => known.hosts.push(other.host.clone()),
                    None => {
                        let (plugin, hosts) = (plugin.clone(), vec![other.host.clone()]);
                        differences.push(Difference { plugin, kind, hosts });
                    }
                }
            }
        }
    }
    differences
}

/// A node without an active version says so itself, and its rooms are closed.
fn kinds(here: &PluginReport, there: Option<&PluginReport>) -> Vec<DifferenceKind> {
    let Some(there) = there else { return vec![DifferenceKind::Missing] };
    let mut kinds = vec![];
    if let (Some(here), Some(version)) = (&here.sha256, &there.sha256)
        && here != version
    {
        let (there, here, reason) = (version.clone(), here.clone(), there.behind.clone());
        kinds.push(DifferenceKind::Version { there, here, reason });
    }
    if let (Some(here), Some(there)) = (&here.config_digest, &there.config_digest)
        && here != there
    {
        kinds.push(DifferenceKind::Settings { there: there.clone(), here: here.clone() });
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::PluginState;

    /// A node with plugins such as `x=version/settings`.
    fn node(host: &str, plugins: &str) -> NodeReport {
        let plugin = |text: &str| {
            let (name, rest) = text.split_once('=').unwrap();
            let (version, settings) = rest.split_once('/').unwrap();
            let report = PluginReport {
                sha256: Some(version.to_owned()).filter(|version| !version.is_empty()),
                version: None,
                generation: 1,
                config_digest: Some(settings.to_owned()),
                state: PluginState::Active,
                behind: None,
            };
            (name.to_owned(), report)
        };
        NodeReport {
            host: host.to_owned(),
            instance: host.to_owned(),
            governance: 0,
            opens_ungoverned: false,
            plugins: plugins.split_whitespace().map(plugin).collect(),
        }
    }

    #[test]
    fn a_difference_is_shown_if_it_lasts_and_names_all_nodes_that_have_it() {
        let own = node("a:1", "x=one/s y=two/s");
        let others = [node("b:1", "x=two/s y=two/s"), node("c:1", "x=two/t y=two/s"), node("d:1", "x=one/s")];
        let peers = Peers::default();
        peers.record(&own, &others);
        assert_eq!(peers.drift(), [""; 0]);
        peers.record(&own, &others);
        let expected = [
            "plugin 'x' has version two on b:1, c:1, and one here",
            "plugin 'x' has other settings on c:1: their digest is t, and s here",
            "plugin 'y' governs rooms here and does not run on d:1; its rooms are closed there",
        ];
        assert_eq!(peers.drift(), expected);
        peers.record(&own, &others[..1]);
        assert_eq!(peers.drift(), [""; 0], "another list of nodes is another difference");
        peers.record(&own, &[node("b:1", "x=/s y=two/s")]);
        peers.record(&own, &[node("b:1", "x=/s y=two/s")]);
        assert_eq!(peers.drift(), [""; 0], "it has no version, which is not this node's matter");
    }

    #[test]
    fn a_sentence_names_some_nodes_and_says_why_they_do_not_follow() {
        let own = node("a:1", "x=one/s");
        let mut others: Vec<_> = (0..7).map(|n| node(&format!("n{n}:1"), "x=two/s")).collect();
        others[0].plugins.get_mut("x").unwrap().behind = Some("it imports too much".into());
        let sentences: Vec<_> = differences(&own, &others).iter().map(Difference::describe).collect();
        let expected = [
            "plugin 'x' has version two on n0:1, and one here: it imports too much",
            "plugin 'x' has version two on n1:1, n2:1, n3:1, n4:1, n5:1 and 1 more, and one here",
        ];
        assert_eq!(sentences, expected);
    }
}
