//! The metrics that plugins define, as `switchyard_guest_NAME` with the plugin as label. Plugins choose the
//! names, so two plugins may use one name differently. A strict collector would reject the whole scrape, so
//! such a metric is left out.

use crate::admin::api::Api;
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
};
use switchyard_plugin::{HISTOGRAM_BOUNDS, MetricValue};

#[derive(Default)]
struct Families {
    /// By name.
    shown: BTreeMap<String, Family>,
    /// The names of all families and their samples.
    taken_names: HashSet<String>,
}

#[derive(Default)]
struct Family {
    is_histogram: bool,
    readings: Vec<(String, MetricValue)>,
}

impl Families {
    /// Adds a metric. The first plugin with a name determines the type. Returns false for a metric that
    /// conflicts with others.
    fn add(&mut self, plugin: &str, name: &str, reading: MetricValue) -> bool {
        let is_histogram = matches!(reading, MetricValue::Histogram { .. });
        if let Some(family) = self.shown.get_mut(name) {
            let is_same_type = family.is_histogram == is_histogram;
            if is_same_type {
                family.readings.push((plugin.to_owned(), reading));
            }
            return is_same_type;
        }
        let suffixes: &[&str] = match is_histogram {
            true => &["", "_bucket", "_count", "_sum", "_created"],
            false => &["", "_total", "_created"],
        };
        let names: Vec<_> = suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect();
        if names.iter().any(|name| self.taken_names.contains(name)) {
            return false;
        }
        self.taken_names.extend(names);
        let readings = vec![(plugin.to_owned(), reading)];
        self.shown.insert(name.to_owned(), Family { is_histogram, readings });
        true
    }
}

pub(super) fn write(api: &Api, text: &mut String) -> std::fmt::Result {
    let (mut families, mut left_out) = (Families::default(), vec![]);
    // In the order of the configuration, so that a plugin cannot hide metrics of those before it.
    for slot in api.rollout.slots().iter() {
        let Some(plugin) = slot.plugin() else { continue };
        let name = slot.name();
        let added = plugin
            .metrics()
            .into_iter()
            .filter(|(metric, reading)| !families.add(&name, metric, reading.clone()));
        let count = added.count();
        left_out.push((name, count));
    }
    families.shown.iter().try_for_each(|(name, family)| family.write(name, text))?;
    let name = "switchyard_plugin_metrics_left_out";
    writeln!(text, "# HELP {name} Metrics of a plugin that are not shown, because their names conflict.")?;
    writeln!(text, "# TYPE {name} gauge")?;
    left_out.iter().try_for_each(|(plugin, count)| writeln!(text, "{name}{{plugin=\"{plugin}\"}} {count}"))
}

impl Family {
    fn write(&self, name: &str, text: &mut String) -> std::fmt::Result {
        let family = format!("switchyard_guest_{name}");
        writeln!(text, "# HELP {family} Defined by a plugin.")?;
        writeln!(text, "# TYPE {family} {}", if self.is_histogram { "histogram" } else { "counter" })?;
        for (plugin, reading) in &self.readings {
            match reading {
                MetricValue::Counter(count) => {
                    writeln!(text, "{family}_total{{plugin=\"{plugin}\"}} {count}")?
                }
                MetricValue::Histogram { buckets, sum } => {
                    let bounds = HISTOGRAM_BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
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
        Ok(())
    }
}
