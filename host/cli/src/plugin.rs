//! `switchyard plugin`: for those who write plugins, and for those who load them into a node that runs.

mod budget;
mod charge;
mod check;
mod new;
mod run;
mod sign;
mod trial;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Make a crate that builds, with tests
    New(new::NewArgs),
    /// Report everything that loading would refuse
    Check(check::CheckArgs),
    /// Say what becomes of a message, or of a recorded feed
    Run(trial::TrialArgs),
    /// Measure how long the hooks take
    Bench(run::BenchArgs),
    /// Make a key pair to sign plugins with
    Keygen(sign::KeygenArgs),
    /// Vouch for a plugin: writes FILE.sig
    Sign(sign::SignArgs),
    /// Show a running node's plugins
    List(charge::ListArgs),
    /// Put a file in charge of a plugin's rooms, on a running node
    Load(charge::LoadArgs),
    /// Put the version before in charge again
    Rollback(charge::RollbackArgs),
    /// Show where a candidate's answers differ from those of the version in charge
    Diff(charge::NameArgs),
    /// Put the candidate in charge
    Promote(charge::NameArgs),
    /// End the candidate
    Drop(charge::NameArgs),
}

pub(crate) async fn run(command: PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::New(args) => new::run(args),
        PluginCommand::Check(args) => check::run(args),
        PluginCommand::Run(args) => run::run(args).await,
        PluginCommand::Bench(args) => run::bench(args).await,
        PluginCommand::Keygen(args) => sign::keygen(args),
        PluginCommand::Sign(args) => sign::sign(args),
        PluginCommand::List(args) => charge::list(args).await,
        PluginCommand::Load(args) => charge::load(args).await,
        PluginCommand::Rollback(args) => charge::rollback(args).await,
        PluginCommand::Diff(args) => charge::diff(args).await,
        PluginCommand::Promote(args) => charge::promote(args).await,
        PluginCommand::Drop(args) => charge::drop_candidate(args).await,
    }
}
