//! The command line: what an operator types.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(unreachable_pub)]

mod admin;
pub mod client;
mod key;
mod listen;
mod output;
mod plugin;
mod publish;
mod serve;
mod signals;
mod start;

pub use start::main;

use clap::{Parser, Subcommand};

/// A WebSocket routing engine whose policy is sandboxed Wasm.
#[derive(Parser)]
#[command(name = "switchyard", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::ServeArgs),
    /// Report everything that `serve` would refuse
    Check(serve::CheckArgs),
    /// Make API keys, and keep them in the store
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Publish one message, or a recorded feed at its pace
    Publish(publish::PublishArgs),
    /// Print what rooms hear, acknowledging and resuming
    Listen(listen::ListenArgs),
    /// Check plugins, and load them into a running node
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
}

impl Cli {
    async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::serve(args).await,
            Command::Check(args) => serve::check(args),
            Command::Key(command) => key::run(command).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Listen(args) => listen::run(args).await,
            Command::Plugin(command) => plugin::run(command).await,
        }
    }
}
