//! The call `GET /metrics`, in the OpenMetrics text format. Counts nothing itself.

mod guests;
mod versions;

use super::api::Api;
use crate::rollout::{PluginSlot, PluginState};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use std::{fmt::Write, sync::Arc};
use switchyard_process::memory::MemoryKind;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Response {
    let mut text = api.services.hub.metrics.encode();
    write_memory(&api, &mut text).expect("writing to a String");
    write_certificate(&api, &mut text).expect("writing to a String");
    write_plugins(&api, &mut text).expect("writing to a String");
    guests::write(&api, &mut text).expect("writing to a String");
    response(text)
}

/// The response with these metrics and the end mark.
pub(super) fn response(mut text: String) -> Response {
    text.push_str("# EOF\n");
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// How much memory the node uses for clients, and how much it may use.
fn write_memory(api: &Api, text: &mut String) -> std::fmt::Result {
    let account = &api.services.hub.memory;
    writeln!(text, "# HELP switchyard_memory_bytes Memory that the node uses for clients, by kind.")?;
    writeln!(text, "# TYPE switchyard_memory_bytes gauge\n# UNIT switchyard_memory_bytes bytes")?;
    for kind in MemoryKind::ALL {
        writeln!(text, "switchyard_memory_bytes{{kind=\"{}\"}} {}", kind.as_str(), account.used(kind))?;
    }
    writeln!(text, "# HELP switchyard_memory_limit_bytes Upper limit of that memory.")?;
    writeln!(text, "# TYPE switchyard_memory_limit_bytes gauge\n# UNIT switchyard_memory_limit_bytes bytes")?;
    writeln!(text, "switchyard_memory_limit_bytes {}", account.limit())
}

/// A node without a certificate shows no value.
fn write_certificate(api: &Api, text: &mut String) -> std::fmt::Result {
    let name = "switchyard_certificate_expiry_seconds";
    writeln!(text, "# HELP {name} Time until the certificate expires, negative afterwards.")?;
    writeln!(text, "# TYPE {name} gauge\n# UNIT {name} seconds")?;
    let expires_in = api.status.certificate_expires_in();
    expires_in.map_or(Ok(()), |seconds| writeln!(text, "{name} {seconds}"))
}

fn write_plugins(api: &Api, text: &mut String) -> std::fmt::Result {
    let slots = api.rollout.slots();
    versions::write(&slots, text)?;
    write_active_versions(&slots, text)?;
    write_plugin_state(api, text)?;
    write_states(api, text)
}

/// What is known about the active versions at this moment.
fn write_active_versions(slots: &[Arc<PluginSlot>], text: &mut String) -> std::fmt::Result {
    let active = |slot: &Arc<PluginSlot>| slot.plugin().map(|plugin| (slot.name(), plugin));
    let active: Vec<_> = slots.iter().filter_map(active).collect();
    let statuses: Vec<_> = active.iter().map(|(_, plugin)| plugin.stats().status()).collect();
    let name = "switchyard_plugin_filters";
    writeln!(text, "# HELP {name} Distinct filters in use.\n# TYPE {name} gauge")?;
    for ((slot, plugin), status) in active.iter().zip(&statuses) {
        let (version, digest) = (escape(&plugin.info().version), &plugin.info().sha256[..12]);
        let labels = format!("plugin=\"{slot}\",version=\"{version}\",sha256=\"{digest}\"");
        writeln!(text, "{name}{{{labels}}} {}", status.filters)?;
    }
    let name = "switchyard_plugin_quarantined_principals";
    writeln!(text, "# HELP {name} Principals that are quarantined for a plugin.\n# TYPE {name} gauge")?;
    for ((slot, _), status) in active.iter().zip(&statuses) {
        writeln!(text, "{name}{{plugin=\"{slot}\"}} {}", status.quarantined_principals)?;
    }
    let name = "switchyard_plugin_config_info";
    writeln!(text, "# HELP {name} Settings with which the active version runs.\n# TYPE {name} gauge")?;
    for (slot, plugin) in &active {
        let digest = plugin.config_digest();
        writeln!(text, "{name}{{plugin=\"{slot}\",digest=\"{}\"}} 1", digest.get(..12).unwrap_or(digest))?;
    }
    Ok(())
}

/// What plugins keep beyond their instances and versions.
fn write_plugin_state(api: &Api, text: &mut String) -> std::fmt::Result {
    let usage = |slot: &Arc<PluginSlot>| Some((slot.name(), slot.plugin()?.state().usage()));
    let plugins: Vec<_> = api.rollout.slots().iter().filter_map(usage).collect();
    for (family, kind, help) in STATE_FAMILIES {
        let (name, suffix) = (format!("switchyard_{family}"), if kind == "counter" { "_total" } else { "" });
        writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}")?;
        if family.ends_with("_bytes") {
            writeln!(text, "# UNIT {name} bytes")?;
        }
        for (plugin, usage) in &plugins {
            let value = match family {
                "plugin_state_bytes" => usage.bytes as u64,
                "plugin_state_entries" => usage.entries as u64,
                "plugin_state_evictions" => usage.evictions,
                "plugin_state_refusals" => usage.refusals,
                _ => usage.dropped_changes,
            };
            writeln!(text, "{name}{suffix}{{plugin=\"{plugin}\"}} {value}")?;
        }
    }
    Ok(())
}

const STATE_FAMILIES: [(&str, &str, &str); 5] = [
    ("plugin_state_bytes", "gauge", "Memory of a plugin's state"),
    ("plugin_state_entries", "gauge", "Buckets and values in a plugin's state"),
    ("plugin_state_evictions", "counter", "Entries that were evicted to make room for others"),
    ("plugin_state_refusals", "counter", "Entries that were not kept because there was no room"),
    ("plugin_state_dropped_changes", "counter", "Changes of shared values that were not sent to other nodes"),
];

/// The state of each plugin: 1 for the current state, 0 for the others.
fn write_states(api: &Api, text: &mut String) -> std::fmt::Result {
    let slots = api.rollout.slots();
    let plugins = || slots.iter().map(|slot| (slot.name(), slot.plugin_state()));
    writeln!(text, "# HELP switchyard_plugin_state 1 for the current state of a plugin, 0 for the others.")?;
    writeln!(text, "# TYPE switchyard_plugin_state gauge")?;
    for (plugin, current) in plugins() {
        for state in PluginState::ALL {
            let value = u8::from(current.name() == state);
            writeln!(text, "switchyard_plugin_state{{plugin=\"{plugin}\",state=\"{state}\"}} {value}")?;
        }
    }
    writeln!(
        text,
        "# HELP switchyard_governance_drift Differences between the plugins of this node and what all nodes agreed on, or those of other nodes."
    )?;
    writeln!(text, "# TYPE switchyard_governance_drift gauge")?;
    writeln!(text, "switchyard_governance_drift {}", api.rollout.governance_drift().len())?;
    writeln!(
        text,
        "# HELP switchyard_plugin_active 1 while the plugin is called, 0 while it is loading, quarantined or failed."
    )?;
    writeln!(text, "# TYPE switchyard_plugin_active gauge")?;
    plugins().try_for_each(|(plugin, state)| {
        let active = u8::from(matches!(state, PluginState::Active | PluginState::Probation { .. }));
        writeln!(text, "switchyard_plugin_active{{plugin=\"{plugin}\"}} {active}")
    })
}

/// The value of a label: plugins choose the text of their version.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
