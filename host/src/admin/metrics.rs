//! `GET /metrics` in Prometheus' text format.

use super::api::Api;
use crate::{
    hub::{Charge, Ward},
    plugin::{BOUNDS, Reading, State as PluginState},
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

pub async fn show(State(api): State<Arc<Api>>) -> Response {
    let mut text = api.services.hub.metrics.encode();
    plugins(&api, &mut text).expect("writing to a String");
    guests(&api, &mut text).expect("writing to a String");
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
    let wards: Vec<_> = api.services.hub.wards().iter().map(|ward| (ward.name(), status(ward))).collect();
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

/// What plugins count themselves, as `switchyard_guest_NAME` with the plugin as label.
fn guests(api: &Api, text: &mut String) -> std::fmt::Result {
    let mut families: BTreeMap<(String, bool), Vec<(String, Reading)>> = BTreeMap::new();
    for ward in api.services.hub.wards() {
        if let Charge::Plugin { plugin, .. } = &**ward.charge.load() {
            for (name, reading) in plugin.metrics() {
                let family = (name.to_owned(), matches!(reading, Reading::Histogram { .. }));
                families.entry(family).or_default().push((ward.name(), reading));
            }
        }
    }
    for ((name, is_histogram), readings) in families {
        let family = format!("switchyard_guest_{name}");
        writeln!(text, "# HELP {family} Counted by a plugin.")?;
        writeln!(text, "# TYPE {family} {}", if is_histogram { "histogram" } else { "counter" })?;
        for (plugin, reading) in readings {
            match reading {
                Reading::Counter(count) => writeln!(text, "{family}_total{{plugin=\"{plugin}\"}} {count}")?,
                Reading::Histogram { buckets, sum } => {
                    let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                    let mut below = 0;
                    for (count, bound) in buckets.iter().zip(bounds) {
                        below += count;
                        writeln!(text, "{family}_bucket{{plugin=\"{plugin}\",le=\"{bound}\"}} {below}")?;
                    }
                    writeln!(text, "{family}_sum{{plugin=\"{plugin}\"}} {sum}")?;
                    writeln!(text, "{family}_count{{plugin=\"{plugin}\"}} {below}")?;
                }
            }
        }
    }
    Ok(())
}
