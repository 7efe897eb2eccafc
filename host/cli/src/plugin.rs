//! `switchyard plugin`: commands for plugin authors, which run plugins locally, and for operators, which
//! manage the plugins of running nodes.

mod bindings;
mod budget;
mod check;
mod dev;
mod measure;
mod node_progress;
mod record;
mod replay;
mod scaffold;
mod sign;
mod slots;
mod trial;
mod versions;
mod wit;

use clap::Subcommand;
pub(crate) use slots::print_preview;

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Create a project with an example plugin, in Rust, C, JavaScript or Python
    New(scaffold::NewArgs),
    /// Serve the plugin of this folder, and build and load it again whenever a file changes
    Dev(dev::DevArgs),
    /// Print the plugin contract of this program, in WIT
    Wit,
    /// Write the bindings of this contract for a plugin in C
    Bindings(bindings::BindingsArgs),
    /// Check a plugin and report everything that a node would reject
    Check(check::PluginCheckArgs),
    /// Show what a plugin does with a message, or with a recorded feed
    Run(trial::TrialArgs),
    /// Replay recorded calls, and report where the answers differ
    Test(replay::TestArgs),
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
    /// Add a plugin to all nodes that share a store
    Add(slots::AddArgs),
    /// Change the rooms and the settings of a plugin that was added with `plugin add`
    Configure(slots::ConfigureArgs),
    /// Remove a plugin from all nodes, with its versions
    Remove(slots::RemoveArgs),
    /// Activate the previous version again
    Rollback(versions::RollbackArgs),
    /// Print what a plugin of a running node is asked, and what it answers
    Record(record::RecordArgs),
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
        PluginCommand::Dev(args) => dev::run(args).await,
        PluginCommand::Wit => wit::run(),
        PluginCommand::Bindings(args) => bindings::run(args),
        PluginCommand::Check(args) => check::run(args),
        PluginCommand::Run(args) => measure::run(args).await,
        PluginCommand::Test(args) => replay::run(args),
        PluginCommand::Bench(args) => measure::bench(args).await,
        PluginCommand::Keygen(args) => sign::keygen(args),
        PluginCommand::Sign(args) => sign::sign(args),
        PluginCommand::List(args) => versions::list(args).await,
        PluginCommand::Load(args) => versions::load(args).await,
        PluginCommand::Add(args) => slots::add(args).await,
        PluginCommand::Configure(args) => slots::configure(args).await,
        PluginCommand::Remove(args) => slots::remove(args).await,
        PluginCommand::Rollback(args) => versions::rollback(args).await,
        PluginCommand::Record(args) => record::run(args).await,
        PluginCommand::Diff(args) => versions::diff(args).await,
        PluginCommand::Promote(args) => versions::promote(args).await,
        PluginCommand::Drop(args) => versions::drop_candidate(args).await,
    }
}
