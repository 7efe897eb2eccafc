//! `switchyard plugin check`

use super::budget::BudgetArgs;
use crate::output::print_line;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use switchyard_plugin::{Engine, Plugin};

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// A core module or a component
    file: PathBuf,
    /// What `init` is given
    #[arg(long, default_value = "{}")]
    config: String,
    #[command(flatten)]
    budget: BudgetArgs,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<()> {
    let config = serde_json::from_str(&args.config).context("--config is not JSON")?;
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let plugin = Plugin::load(&Engine::with_compiler_limits()?, &name, &bytes, &config, args.budget.read())?;
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
