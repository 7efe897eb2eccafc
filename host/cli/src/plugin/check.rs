//! `switchyard plugin check`: loads a plugin as a node would, and prints what it is.

use super::budget::BudgetArgs;
use crate::{
    json_argument::{parse_config, parse_filter},
    output::{Problems, print_line},
};
use clap::Args;
use serde_json::value::RawValue;
use std::path::PathBuf;
use switchyard_plugin::{Engine, Plugin};

#[derive(Args)]
pub(crate) struct PluginCheckArgs {
    /// The plugin: a WebAssembly core module or a component
    file: PathBuf,
    /// The configuration to pass to the plugin
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_config)]
    config: serde_json::Value,
    /// A filter to compare with the plugin's schema of filters; can be given several times
    #[arg(long, value_name = "JSON", value_parser = parse_filter)]
    filter: Vec<Box<RawValue>>,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: PluginCheckArgs) -> anyhow::Result<()> {
    let bytes = super::versions::read_plugin(&args.file)?;
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let plugin =
        Plugin::load(&Engine::with_compiler_limits()?, &name, &bytes, &args.config, args.budget.budget())?;
    let info = plugin.info();
    let mut problems = vec![];
    for (kind, schema) in [("config", &info.config_schema), ("filter", &info.filter_schema)] {
        if let Some(schema) = schema.as_ref().filter(|schema| !schema.is_object() && !schema.is_boolean()) {
            problems.push(format!("its {kind} schema must be a JSON object or a boolean, got {schema}"));
        }
    }
    let of_config = plugin.config_problems().into_iter();
    problems.extend(of_config.map(|problem| format!("{problem} (its config schema)")));
    let filters = args.filter.iter().map(|filter| serde_json::from_str(filter.get()));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let of_filters = filters.iter().flat_map(|filter| plugin.filter_problems(filter));
    problems.extend(of_filters.map(|problem| format!("{problem} (its filter schema)")));
    if !problems.is_empty() {
        let in_plugin = |problem| format!("plugin '{name}': {problem}");
        return Err(Problems(problems.into_iter().map(in_plugin).collect()).into());
    }
    if args.json {
        print_line!("{}", serde_json::to_string(info)?)?;
        return Ok(());
    }
    let hooks = serde_json::to_value(info.hooks)?;
    let hooks = hooks.as_object().into_iter().flatten().filter(|(_, on)| **on == true);
    let hooks: Vec<_> = hooks.map(|(name, _)| name.as_str()).collect();
    print_line!("{} {} is good", info.package, info.version)?;
    print_line!("hooks    {}", hooks.join(", "))?;
    print_line!("sha256   {}", info.sha256)?;
    print_line!("size     {}", bytesize::ByteSize(info.size as u64))?;
    Ok(())
}
