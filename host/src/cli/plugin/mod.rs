//! `switchyard plugin`: for those who write plugins, and for those who load them into a node that runs.

mod charge;
mod check;

use clap::Subcommand;

#[derive(Subcommand)]
pub enum PluginCommand {
    /// Report everything that loading would refuse
    Check(check::CheckArgs),
    /// Show a running node's plugins
    List(charge::ListArgs),
    /// Put a file in charge of a plugin's rooms, on a running node
    Load(charge::LoadArgs),
    /// Put the version before in charge again
    Rollback(charge::RollbackArgs),
}

pub async fn run(command: PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::Check(args) => check::run(args),
        PluginCommand::List(args) => charge::list(args).await,
        PluginCommand::Load(args) => charge::load(args).await,
        PluginCommand::Rollback(args) => charge::rollback(args).await,
    }
}
