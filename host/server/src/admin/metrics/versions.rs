//! What was counted for the versions of plugins: each of the last ones by itself, those before them under
//! `version="older"`, and candidates apart from active versions. Also how versions were loaded and withdrawn.

use super::escape;
use crate::rollout::PluginSlot;
use std::{fmt::Write, sync::Arc};
use switchyard_plugin::{CallCounts, VersionCounts};

/// Name, help, and what it shows of the counts: values with the labels that come after those of the version.
type Family = (&'static str, &'static str, fn(&CallCounts) -> Vec<(String, f64)>);

const ACTIVE_FAMILIES: [Family; 8] = [
    ("plugin_calls", "Calls of a plugin's hooks", calls),
    ("plugin_seconds", "Time spent in a plugin's hooks", seconds),
    ("plugin_failures", "Calls that failed, by hook and kind", failures),
    ("plugin_refused", "Calls not made because of a quarantine", |counts| single(counts.refused)),
    ("plugin_instances", "Instances started", |counts| single(counts.instances)),
    (
        "plugin_recycled",
        "Instances replaced because they had grown too large or had served their number of calls",
        |counts| single(counts.recycled),
    ),
    ("plugin_filters_asked", "Evaluations of a filter for a message", |counts| single(counts.filters_asked)),
    ("plugin_filters_passed", "Evaluations in which the message passed the filter", |counts| {
        single(counts.filters_passed)
    }),
];

const CANDIDATE_FAMILIES: [Family; 2] = [
    ("plugin_candidate_calls", "Calls of a candidate's hooks, whose answers had no effect", calls),
    ("plugin_candidate_failures", "Calls of a candidate that failed, by hook and kind", failures),
];

fn calls(counts: &CallCounts) -> Vec<(String, f64)> {
    counts.calls.iter().map(|(hook, (calls, _))| (format!(",hook=\"{hook}\""), *calls as f64)).collect()
}

fn seconds(counts: &CallCounts) -> Vec<(String, f64)> {
    counts.calls.iter().map(|(hook, (_, nanos))| (format!(",hook=\"{hook}\""), *nanos as f64 / 1e9)).collect()
}

fn failures(counts: &CallCounts) -> Vec<(String, f64)> {
    let failures = counts.failures_by_hook.iter();
    failures
        .map(|((hook, kind), count)| (format!(",hook=\"{hook}\",kind=\"{kind}\""), *count as f64))
        .collect()
}

fn single(count: u64) -> Vec<(String, f64)> {
    vec![(String::new(), count as f64)]
}

/// Writes the families of all plugins.
pub(super) fn write(slots: &[Arc<PluginSlot>], text: &mut String) -> std::fmt::Result {
    let of = |counts: fn(&PluginSlot) -> Vec<VersionCounts>| -> Vec<(String, CallCounts)> {
        let labelled = |slot: &Arc<PluginSlot>| {
            let plugin = slot.name();
            // A version that was compiled and never called has no series.
            let counted = counts(slot).into_iter().filter(|version| version.counts != CallCounts::default());
            counted.map(move |version| (labels(&plugin, &version), version.counts)).collect::<Vec<_>>()
        };
        slots.iter().flat_map(labelled).collect()
    };
    let active = of(|slot| slot.series.versions());
    ACTIVE_FAMILIES.iter().try_for_each(|family| write_family(family, &active, text))?;
    let candidates = of(|slot| slot.series.candidates());
    CANDIDATE_FAMILIES.iter().try_for_each(|family| write_family(family, &candidates, text))?;
    write_activity(slots, text)
}

/// Only the sum of older versions has no digest, whatever a version calls itself.
fn labels(plugin: &str, counts: &VersionCounts) -> String {
    match &counts.version {
        Some((version, sha256)) => {
            format!("plugin=\"{plugin}\",version=\"{}\",sha256=\"{}\"", escape(version), &sha256[..12])
        }
        None => format!("plugin=\"{plugin}\",version=\"older\""),
    }
}

fn write_family(
    (family, help, values): &Family,
    versions: &[(String, CallCounts)],
    text: &mut String,
) -> std::fmt::Result {
    let name = format!("switchyard_{family}");
    writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter")?;
    versions.iter().try_for_each(|(labels, counts)| {
        let mut values = values(counts).into_iter();
        values.try_for_each(|(more, value)| writeln!(text, "{name}_total{{{labels}{more}}} {value}"))
    })
}

/// How versions were loaded and withdrawn.
fn write_activity(slots: &[Arc<PluginSlot>], text: &mut String) -> std::fmt::Result {
    let name = "switchyard_plugin_loads";
    writeln!(text, "# HELP {name} Versions that were loaded, by source and result.\n# TYPE {name} counter")?;
    for slot in slots {
        let plugin = slot.name();
        for ((source, result), count) in slot.activity.loads() {
            let (source, result) = (source.name(), result.name());
            writeln!(
                text,
                "{name}_total{{plugin=\"{plugin}\",source=\"{source}\",result=\"{result}\"}} {count}"
            )?;
        }
    }
    let name = "switchyard_plugin_withdrawals";
    writeln!(text, "# HELP {name} Versions that an earlier one replaced, by kind.\n# TYPE {name} counter")?;
    for slot in slots {
        let plugin = slot.name();
        for (kind, count) in slot.activity.withdrawals() {
            writeln!(text, "{name}_total{{plugin=\"{plugin}\",kind=\"{}\"}} {count}", kind.name())?;
        }
    }
    Ok(())
}
