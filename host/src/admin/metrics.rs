//! `GET /metrics` in Prometheus' text format.

use super::api::Api;
use crate::{
    hub::{Charge, Ward},
    plugin::State as PluginState,
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use std::{fmt::Write, sync::Arc};

pub async fn show(State(api): State<Arc<Api>>) -> Response {
    let mut text = api.services.hub.metrics.encode();
    plugins(&api, &mut text).expect("writing to a String");
    text.push_str("# EOF\n");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Plugins keep their own counters; they are read when asked for.
fn plugins(api: &Api, text: &mut String) -> std::fmt::Result {
    let status = |ward: &Ward| match &**ward.charge.load() {
        Charge::Failed(_) => None,
        Charge::Plugin { stats, .. } => Some(stats.status()),
    };
    let wards: Vec<_> = api.services.hub.wards().iter().map(|ward| (&ward.name, status(ward))).collect();
    let families: [(&str, &str, &str); 6] = [
        ("plugin_calls", "counter", "Calls of a plugin's hooks"),
        ("plugin_seconds", "counter", "Time spent in a plugin's hooks"),
        ("plugin_failures", "counter", "Calls that failed, by kind"),
        ("plugin_refused", "counter", "Calls not made because of a quarantine"),
        ("plugin_filters", "gauge", "Distinct filters in use"),
        ("plugin_active", "gauge", "1 while the plugin is asked, 0 while it is quarantined or failed"),
    ];
    for (family, kind, help) in families {
        writeln!(text, "# HELP switchyard_{family} {help}.")?;
        writeln!(text, "# TYPE switchyard_{family} {kind}")?;
        for (plugin, status) in &wards {
            let Some(status) = status else {
                if family == "plugin_active" {
                    writeln!(text, "switchyard_{family}{{plugin=\"{plugin}\"}} 0")?;
                }
                continue;
            };
            let name = format!("switchyard_{family}");
            match family {
                "plugin_calls" => status.calls.iter().try_for_each(|(hook, (calls, _))| {
                    writeln!(text, "{name}_total{{plugin=\"{plugin}\",hook=\"{hook}\"}} {calls}")
                })?,
                "plugin_seconds" => status.calls.iter().try_for_each(|(hook, (_, nanos))| {
                    let seconds = *nanos as f64 / 1e9;
                    writeln!(text, "{name}_total{{plugin=\"{plugin}\",hook=\"{hook}\"}} {seconds}")
                })?,
                "plugin_failures" => status.failures.iter().try_for_each(|(kind, count)| {
                    writeln!(text, "{name}_total{{plugin=\"{plugin}\",kind=\"{kind}\"}} {count}")
                })?,
                "plugin_refused" => writeln!(text, "{name}_total{{plugin=\"{plugin}\"}} {}", status.refused)?,
                "plugin_filters" => writeln!(text, "{name}{{plugin=\"{plugin}\"}} {}", status.filters)?,
                _ => {
                    let active = u8::from(status.state == PluginState::Active);
                    writeln!(text, "{name}{{plugin=\"{plugin}\"}} {active}")?;
                }
            }
        }
    }
    Ok(())
}
