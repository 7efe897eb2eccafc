//! `switchyard plugin check`: loads a plugin as a node would, and prints what it is.

use super::budget::BudgetArgs;
use crate::{
    json_argument::parse_config,
    output::{Problems, print_line},
};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use switchyard_plugin::{Engine, Plugin};

#[derive(Args)]
pub(crate) struct PluginCheckArgs {
    /// The plugin: a WebAssembly core module or a component
    file: PathBuf,
    /// The configuration to pass to the plugin
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_config)]
    config: serde_json::Value,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: PluginCheckArgs) -> anyhow::Result<()> {
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let plugin =
        Plugin::load(&Engine::with_compiler_limits()?, &name, &bytes, &args.config, args.budget.budget())?;
    let problems = plugin.config_problems();
    if !problems.is_empty() {
        let in_plugin = |problem| format!("plugin '{name}': {problem} (its config schema)");
        return Err(Problems(problems.into_iter().map(in_plugin).collect()).into());
    }
    let info = plugin.info();
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
