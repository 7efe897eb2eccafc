//! The command line `switchyard`: what operators and plugin authors type. Every command has a module of its
//! own, which parses its arguments and prints its result. The crate also exports a [client] of the wire
//! protocol, for programs that publish or listen.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(missing_docs, unreachable_pub)]

mod admin_client;
mod api_key;
mod ban;
mod check;
pub mod client;
mod count;
mod json_argument;
mod key;
mod listen;
mod output;
mod plugin;
mod publish;
mod serve;
mod signals;
mod start;
mod token;

pub use output::note;
pub use start::main;

use clap::{Parser, Subcommand};

/// A WebSocket server that routes messages, with sandboxed WebAssembly plugins.
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
    /// Check a configuration and its plugins: report what `serve` would reject
    Check(check::CheckArgs),
    /// Create API keys and manage those in the store
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Ban principals on all nodes
    #[command(subcommand)]
    Principal(ban::PrincipalCommand),
    /// Ban addresses on all nodes
    #[command(subcommand)]
    Address(ban::AddressCommand),
    /// Check user tokens, and revoke them on all nodes
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Publish one message, or a recorded feed at its original pace
    Publish(publish::PublishArgs),
    /// Print the messages of rooms, and resume after a lost connection
    Listen(listen::ListenArgs),
    /// Develop and sign plugins, and deploy them to a running node
    #[command(subcommand)]
    Plugin(Box<plugin::PluginCommand>),
}

impl Cli {
    async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Key(command) => key::run(command).await,
            Command::Principal(command) => ban::principal(command).await,
            Command::Address(command) => ban::address(command).await,
            Command::Token(command) => token::run(command).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Listen(args) => listen::run(args).await,
            Command::Plugin(command) => plugin::run(*command).await,
        }
    }
}
