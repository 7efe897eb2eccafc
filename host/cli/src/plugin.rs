//! `switchyard plugin`: commands for plugin authors, which run plugins locally, and for operators, which
//! manage the plugins of running nodes.

mod budget;
mod check;
mod measure;
mod scaffold;
mod sign;
mod trial;
mod versions;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Create a crate with an example plugin and its test
    New(scaffold::NewArgs),
    /// Check a plugin and report everything that a node would reject
    Check(check::PluginCheckArgs),
    /// Show what a plugin does with a message, or with a recorded feed
    Run(trial::TrialArgs),
    /// Measure how long the hooks of a plugin take
    Bench(measure::BenchArgs),
    /// Generate a key pair for signing plugins
    Keygen(sign::KeygenArgs),
    /// Sign a plugin: write its signature to FILE.sig
    Sign(sign::SignArgs),
    /// List the plugins of a running node
    List(versions::PluginListArgs),
    /// Load a version of a plugin on a running node, and activate it
    Load(versions::LoadArgs),
    /// Activate the previous version again
    Rollback(versions::RollbackArgs),
    /// Show where the shadow candidate's answers differ from those of the active version
    Diff(versions::NameArgs),
    /// Activate the shadow candidate
    Promote(versions::NameArgs),
    /// Stop the shadow candidate
    Drop(versions::NameArgs),
}

pub(crate) async fn run(command: PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::New(args) => scaffold::run(args),
        PluginCommand::Check(args) => check::run(args),
        PluginCommand::Run(args) => measure::run(args).await,
        PluginCommand::Bench(args) => measure::bench(args).await,
        PluginCommand::Keygen(args) => sign::keygen(args),
        PluginCommand::Sign(args) => sign::sign(args),
        PluginCommand::List(args) => versions::list(args).await,
        PluginCommand::Load(args) => versions::load(args).await,
        PluginCommand::Rollback(args) => versions::rollback(args).await,
        PluginCommand::Diff(args) => versions::diff(args).await,
        PluginCommand::Promote(args) => versions::promote(args).await,
        PluginCommand::Drop(args) => versions::drop_candidate(args).await,
    }
}
