//! `switchyard key new`

use crate::{
    key::{Digest, Scope, generate},
    room::is_principal,
};
use anyhow::bail;
use clap::{Args, Subcommand};
use std::time::SystemTime;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key: shown once, with what belongs into the configuration
    New(NewArgs),
}

#[derive(Args)]
pub struct NewArgs {
    /// Whose key it is
    #[arg(long)]
    principal: String,
    /// What it may do
    #[arg(long, value_delimiter = ',', required = true)]
    scope: Vec<Scope>,
    /// A configured [tier.NAME]
    #[arg(long)]
    tier: Option<String>,
    /// For how long it is good, such as 90d
    #[arg(long, value_parser = humantime::parse_duration)]
    expires: Option<std::time::Duration>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(command: KeyCommand) -> anyhow::Result<()> {
    let KeyCommand::New(args) = command;
    if !is_principal(&args.principal) {
        bail!("'{}' is no principal's name: 1 to 64 of A-Z a-z 0-9 . _ -", args.principal);
    }
    let key = generate();
    let digest = Digest::of(&key).to_string();
    let expires =
        args.expires.map(|age| humantime::format_rfc3339_seconds(SystemTime::now() + age).to_string());
    if args.json {
        let NewArgs { principal, scope, tier, .. } = args;
        let made = serde_json::json!({
            "key": key, "digest": digest, "principal": principal, "scopes": scope, "tier": tier, "expires": expires,
        });
        println!("{made}");
        return Ok(());
    }
    println!("{key}\n\nKeep it: it is shown this once. The configuration holds only its digest:\n");
    println!("[[key]]\ndigest = \"{digest}\"\nprincipal = \"{}\"", args.principal);
    if let Some(tier) = args.tier {
        println!("tier = \"{tier}\"");
    }
    let scopes: Vec<_> = args.scope.iter().map(|scope| format!("\"{}\"", scope.as_str())).collect();
    println!("scopes = [{}]", scopes.join(", "));
    if let Some(expires) = expires {
        println!("expires = {expires}");
    }
    Ok(())
}
