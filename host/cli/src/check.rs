//! `switchyard check`: reports every problem of a configuration, not only the first.

use crate::{
    count::counted,
    output::{Problems, note, print_line},
};
use clap::Args;
use std::path::PathBuf;
use switchyard_plugin::Engine;
use switchyard_server::{
    Tls,
    config::{Config, ConfigFile, find_key, line_number, read_environment},
};

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The configuration file [default: check the built-in defaults and the environment]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: CheckArgs) -> anyhow::Result<()> {
    // Reads the file once, because a pipe can be read only once.
    let file = args.config.as_deref().map(ConfigFile::open).transpose()?;
    let environment = read_environment()?;
    let config = match &file {
        Some(file) => file.parse_whole(&environment),
        None => Config::load(None, &environment).map_err(|error| vec![error]),
    };
    let config = config.map_err(|errors| Problems(errors.iter().map(ToString::to_string).collect()))?;
    let text = file.as_ref().map_or("", ConfigFile::text);
    let at_line = |offset: usize, error: String| match &args.config {
        Some(file) => format!("{}:{}: {error}", file.display(), line_number(text, offset)),
        None => error,
    };
    let mut problems = vec![];
    if let Some(Err(error)) = config.server.tls.clone().map(Tls::open) {
        problems.push(at_line(find_key(text, "server", "tls").start, error.to_string()));
    }
    if let Err(error) = config.cache.check() {
        problems.push(at_line(find_key(text, "cache", "folder").start, error.to_string()));
    }
    if !config.plugins.is_empty() {
        let engine = Engine::with_compiler_limits()?;
        for plugin in &config.plugins {
            let offset = plugin.name.span().start;
            match plugin.load(&engine) {
                Err(error) => problems.push(at_line(offset, error.to_string())),
                Ok(loaded) => problems.extend(loaded.config_problems().into_iter().map(|problem| {
                    at_line(offset, format!("plugin '{}': {problem} (its config schema)", plugin.name()))
                })),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    config.warnings(args.config.as_deref()).iter().for_each(note);
    let name = args.config.map_or("the defaults".into(), |file| file.display().to_string());
    let keys = counted(config.keys.len() as u64, "key");
    let plugins = counted(config.plugins.len() as u64, "plugin");
    print_line!("{name}: good, with {keys} and {plugins}")?;
    Ok(())
}
