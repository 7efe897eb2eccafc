//! Waiting until all nodes run the active version, and showing on standard error which of them do.

use super::versions::{array, path, text_of};
use crate::{
    admin_client::AdminClient,
    output::{note, replace_stderr_line},
};
use serde_json::Value;
use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

/// How long to wait until the other nodes run the new version. Each polls the store twice a second, and
/// compiles.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A rollout that takes less than this shows no progress.
const MIN_DELAY: Duration = Duration::from_secs(1);

/// Returns the plugin as soon as all nodes have followed to its generation, or one of them has not in time.
pub(super) async fn wait_for_nodes(
    admin: &AdminClient,
    name: &str,
    mut plugin: Value,
) -> anyhow::Result<Value> {
    let (generation, began) = (plugin["generation"].as_u64(), Instant::now());
    let (mut shown, is_terminal) = (None, stderr().is_terminal());
    let is_awaited =
        |node: &Value, plugin: &Value| is_behind(node, generation) || has_other_settings(node, plugin);
    while array(&plugin["nodes"]).any(|node| is_awaited(node, &plugin)) && began.elapsed() < ROLLOUT_TIMEOUT {
        let progress = format_progress(&plugin, generation);
        if began.elapsed() >= MIN_DELAY && shown.as_ref() != Some(&progress) {
            match is_terminal {
                true => replace_stderr_line(&progress),
                false => note(&progress),
            }
            shown = Some(progress);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        plugin = admin.call("GET", &path(name, "")).await?;
    }
    if is_terminal && shown.is_some() {
        replace_stderr_line("");
    }
    Ok(plugin)
}

/// Whether a node has not followed to this generation.
pub(super) fn is_behind(node: &Value, generation: Option<u64>) -> bool {
    node["generation"].as_u64() < generation
}

/// Whether a node runs a plugin of the store with older settings.
fn has_other_settings(node: &Value, plugin: &Value) -> bool {
    plugin["origin"] == "store"
        && !node["config_digest"].is_null()
        && node["config_digest"] != plugin["config_digest"]
}

fn format_progress(plugin: &Value, generation: Option<u64>) -> String {
    let (mut awaited, mut all) = (vec![], 0);
    for node in array(&plugin["nodes"]) {
        all += 1;
        if is_behind(node, generation) || has_other_settings(node, plugin) {
            awaited.push(format!("{} ({})", text_of(&node["host"]), text_of(&node["state"])));
        }
    }
    let (name, awaited, follow) = (text_of(&plugin["name"]), awaited.join(", "), all - awaited.len());
    format!("{name}: {follow} of {all} nodes have followed; waiting for {awaited}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_names_the_nodes_that_are_awaited() {
        let node = |host: &str, generation: u64, state: &str| json!({"host": host, "generation": generation, "state": state});
        let nodes = [
            node("one:9090", 3, "probation"),
            node("two:9090", 2, "active"),
            node("three:9090", 2, "loading"),
        ];
        let plugin = json!({"name": "dydx", "generation": 3, "nodes": nodes});
        assert_eq!(
            format_progress(&plugin, Some(3)),
            "dydx: 1 of 3 nodes have followed; waiting for two:9090 (active), three:9090 (loading)"
        );
    }
}
