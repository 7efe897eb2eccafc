//! The call `GET /metrics`, in the OpenMetrics text format. Counts nothing itself.

mod guests;

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

/// The counters of plugins, which belong to the active version and are read when needed.
fn write_plugins(api: &Api, text: &mut String) -> std::fmt::Result {
    let version = |slot: &Arc<PluginSlot>| {
        let plugin = slot.plugin()?;
        let (info, status) = (plugin.info(), plugin.stats().status());
        let (version, digest) = (escape(&info.version), &info.sha256[..12]);
        Some((format!("plugin=\"{}\",version=\"{version}\",sha256=\"{digest}\"", info.name), status))
    };
    let versions: Vec<_> = api.rollout.slots().iter().filter_map(version).collect();
    for (family, kind, help) in FAMILIES {
        writeln!(text, "# HELP switchyard_{family} {help}.")?;
        writeln!(text, "# TYPE switchyard_{family} {kind}")?;
        let name = format!("switchyard_{family}");
        for (labels, status) in &versions {
            let mut line = |suffix: &str, more: &str, value: f64| {
                writeln!(text, "{name}{suffix}{{{labels}{more}}} {value}")
            };
            match family {
                "plugin_calls" => status.calls.iter().try_for_each(|(hook, (calls, _))| {
                    line("_total", &format!(",hook=\"{hook}\""), *calls as f64)
                })?,
                "plugin_seconds" => status.calls.iter().try_for_each(|(hook, (_, nanos))| {
                    line("_total", &format!(",hook=\"{hook}\""), *nanos as f64 / 1e9)
                })?,
                "plugin_failures" => {
                    status.failures_by_hook.iter().try_for_each(|((hook, kind), count)| {
                        line("_total", &format!(",hook=\"{hook}\",kind=\"{kind}\""), *count as f64)
                    })?
                }
                "plugin_refused" => line("_total", "", status.refused as f64)?,
                "plugin_instances" => line("_total", "", status.instances as f64)?,
                "plugin_recycled" => line("_total", "", status.recycled as f64)?,
                "plugin_filters_asked" => line("_total", "", status.filters_asked as f64)?,
                "plugin_filters_passed" => line("_total", "", status.filters_passed as f64)?,
                _ => line("", "", status.filters as f64)?,
            }
        }
    }
    write_plugin_state(api, text)?;
    write_states(api, text)
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
                _ => usage.refusals,
            };
            writeln!(text, "{name}{suffix}{{plugin=\"{plugin}\"}} {value}")?;
        }
    }
    Ok(())
}

const STATE_FAMILIES: [(&str, &str, &str); 4] = [
    ("plugin_state_bytes", "gauge", "Memory of a plugin's state"),
    ("plugin_state_entries", "gauge", "Buckets and values in a plugin's state"),
    ("plugin_state_evictions", "counter", "Entries that were evicted to make room for others"),
    ("plugin_state_refusals", "counter", "Entries that were not kept because there was no room"),
];

const FAMILIES: [(&str, &str, &str); 9] = [
    ("plugin_calls", "counter", "Calls of a plugin's hooks"),
    ("plugin_seconds", "counter", "Time spent in a plugin's hooks"),
    ("plugin_failures", "counter", "Calls that failed, by hook and kind"),
    ("plugin_refused", "counter", "Calls not made because of a quarantine"),
    ("plugin_instances", "counter", "Instances started"),
    (
        "plugin_recycled",
        "counter",
        "Instances replaced because they had grown too large or had served their number of calls",
    ),
    ("plugin_filters_asked", "counter", "Evaluations of a filter for a message"),
    ("plugin_filters_passed", "counter", "Evaluations in which the message passed the filter"),
    ("plugin_filters", "gauge", "Distinct filters in use"),
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
        "# HELP switchyard_governance_drift Plugins that this node lacks or that govern other rooms than it has configured."
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
