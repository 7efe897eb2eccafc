//! `switchyard key`: creates API keys, and manages those in the store that all nodes share.

use crate::{
    count::counted,
    output::{InvalidArguments, OutputError, print_line},
};
use anyhow::{Context, bail};
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use std::{path::PathBuf, time::Duration};
use switchyard_process::unit::{InvalidDuration, parse_duration};
use switchyard_protocol::unix_ms;
use switchyard_server::{
    config::{Config, read_environment},
    generate_key,
};
use switchyard_store::{
    Keyring, Replication,
    key::{Digest, Expiry, KeyConfig, PrincipalName, Scope},
};

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key for the configuration, and print it once with its [[key]] section
    New(KeyArgs),
    /// Create a key and add it to the store; every node accepts it within a second
    Add(AddArgs),
    /// List the keys in the store
    List(ListArgs),
    /// Remove a key from the store; its connections close within a second
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub(crate) struct KeyArgs {
    /// The name of the user or service that gets the key: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(long, value_name = "NAME", value_parser = parse_principal)]
    principal: PrincipalName,
    /// What the key allows; several scopes are separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_parser = scope_parser())]
    scope: Vec<Scope>,
    /// The tier whose limits apply, as configured in [tier.NAME] [default: default]
    #[arg(long, value_name = "NAME", value_parser = parse_tier)]
    tier: Option<String>,
    /// How long the key is valid, such as 90d [default: forever]
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    expires: Option<Duration>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Add an existing key, given by its digest, instead of a new one
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
    /// The node's configuration file, which names the store and the tiers
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// The node's configuration file, which names the store
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    /// The key's digest as `key list` prints it, or enough of its beginning to be unique
    digest: String,
    /// The node's configuration file, which names the store
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn scope_parser() -> impl TypedValueParser<Value = Scope> {
    PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)).map(|name| {
        let named = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
        named.expect("clap allows only the names of scopes")
    })
}

pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::New(args) => {
            let key = generate_key();
            let config = key_config(&args, Digest::of(&key));
            Ok(print_new(&args, &key, &config)?)
        }
        KeyCommand::Add(args) => add(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => revoke(args).await,
    }
}

impl KeyArgs {
    /// The tier, unless it is the one that keys without a tier have, which need not be configured.
    fn tier(&self) -> Option<&String> {
        self.tier.as_ref().filter(|tier| *tier != switchyard_server::DEFAULT_TIER)
    }
}

/// The key as a configuration describes it.
fn key_config(args: &KeyArgs, digest: Digest) -> KeyConfig {
    KeyConfig {
        digest,
        principal: args.principal.clone(),
        tier: args.tier().cloned().map(|tier| toml::Spanned::new(0..0, tier)),
        scopes: args.scope.clone(),
        // In whole seconds, as a configuration writes it.
        expires: args.expires.map(|age| Expiry((unix_ms() + age.as_millis() as u64) / 1000 * 1000)),
    }
}

fn parse_principal(text: &str) -> Result<PrincipalName, String> {
    PrincipalName::try_from(text.to_owned()).map_err(|_| "expected 1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
}

fn parse_tier(text: &str) -> Result<String, String> {
    match text {
        "" => Err("expected the name of a tier, as configured in [tier.NAME]".to_owned()),
        name => Ok(name.to_owned()),
    }
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(lifetime) if lifetime < Duration::from_secs(1) => {
            Err("expected at least 1s; a usual value is 90d".to_owned())
        }
        Ok(lifetime) => Ok(lifetime),
        Err(InvalidDuration::Syntax(_)) => Err("expected something like 90d, 12h or 2y".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A key as `--json` prints it, with the secret if the key is new.
fn json(secret: Option<&str>, config: &KeyConfig) -> serde_json::Value {
    let mut json = serde_json::json!({
        "digest": config.digest.to_string(), "principal": config.principal.0, "scopes": config.scopes,
        "tier": config.tier.as_ref().map(|tier| tier.get_ref()),
        "expires": config.expires.map(|at| at.to_string()),
    });
    if let Some(secret) = secret {
        json["key"] = secret.into();
    }
    json
}

fn print_new(args: &KeyArgs, key: &str, config: &KeyConfig) -> Result<(), OutputError> {
    if args.json {
        return print_line!("{}", json(Some(key), config));
    }
    print_line!("{key}")?;
    print_line!("")?;
    print_line!("Store it safely; it is shown only once. The configuration contains only its digest:")?;
    print_line!("")?;
    print_line!("[[key]]")?;
    print_line!("digest = \"{}\"", config.digest)?;
    print_line!("principal = \"{}\"", config.principal.0)?;
    if let Some(tier) = args.tier() {
        print_line!("tier = {}", toml::Value::from(tier.as_str()))?;
    }
    let scopes: Vec<_> = args.scope.iter().map(|scope| format!("\"{}\"", scope.as_str())).collect();
    print_line!("scopes = [{}]", scopes.join(", "))?;
    if let Some(expires) = config.expires {
        print_line!("expires = {expires}")?;
    }
    Ok(())
}

fn load_config(file: Option<&PathBuf>) -> anyhow::Result<Config> {
    let config =
        read_environment().and_then(|environment| Config::load(file.map(PathBuf::as_path), &environment));
    config.map_err(anyhow::Error::msg)
}

async fn open_keyring(config: &Config) -> anyhow::Result<Keyring> {
    let Some(site) = config.store.site() else {
        bail!(
            "store.url is memory, and a memory store cannot keep keys; name a store in Redis with --config FILE or \
             SWITCHYARD_STORE__URL, or add a [[key]] section to the configuration (see `switchyard key new`)"
        );
    };
    Ok(Keyring::open(&site).await?)
}

async fn add(args: AddArgs) -> anyhow::Result<()> {
    // Not a parser of clap, because clap would show the text, which may be a key.
    let given = args.digest.map(Digest::try_from).transpose();
    let given = given.map_err(|error| InvalidArguments(format!("--digest: {error}")))?;
    let config = load_config(args.config.as_ref())?;
    if let Some(tier) = args.key.tier().filter(|tier| !config.tiers.contains_key(*tier)) {
        bail!("--tier: '{tier}' is not configured; add [tier.{tier}] to the configuration of every node");
    }
    let (key, digest) = match given {
        Some(digest) => (None, digest),
        None => {
            let key = generate_key();
            let digest = Digest::of(&key);
            (Some(key), digest)
        }
    };
    let new = key_config(&args.key, digest);
    let keyring = open_keyring(&config).await?;
    let replication = match keyring.add(&new).await {
        Ok(replication) => replication,
        // Perhaps the key was added and only the answer was lost.
        Err(error) => {
            if key.is_some() {
                withdraw(&keyring, &new.digest).await;
            }
            return Err(error.into());
        }
    };
    let printed = match (args.key.json, &key) {
        (true, key) => {
            let mut json = json(key.as_deref(), &new);
            json["replication"] = serde_json::to_value(replication).expect("plain data");
            print_line!("{json}")
        }
        (false, Some(key)) => {
            let lines = [key, "", "Store it safely; it is shown only once."];
            lines.iter().try_for_each(|line| print_line!("{line}"))
        }
        (false, None) => Ok(()),
    };
    if let Err(error) = printed {
        if key.is_some() {
            withdraw(&keyring, &new.digest).await;
        }
        return Err(error.into());
    }
    if args.key.json {
        return Ok(());
    }
    let config = args.config.map(|file| format!(" --config '{}'", file.display())).unwrap_or_default();
    print_line!(
        "Every node accepts it within a second. To revoke it: switchyard key revoke{config} {}",
        new.digest
    )?;
    report_replication(replication)?;
    Ok(())
}

const MAX_WITHDRAW_RETRIES: usize = 5;
const WITHDRAW_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Revokes a key that nobody has seen, because nobody could use it and it would stay in the store forever.
async fn withdraw(keyring: &Keyring, digest: &Digest) {
    let mut result = keyring.revoke(digest).await;
    // The failure may be over in a moment.
    for _ in 0..MAX_WITHDRAW_RETRIES {
        if result.is_ok() {
            return;
        }
        tokio::time::sleep(WITHDRAW_RETRY_DELAY).await;
        result = keyring.revoke(digest).await;
    }
    if let Err(error) = result {
        tracing::warn!(
            "a new key that was not shown may be in the store: {error}. Check with `switchyard key list`, and remove it with \
             `switchyard key revoke {digest}`"
        );
    }
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let keys = open_keyring(&load_config(args.config.as_ref())?).await?.list().await?;
    if args.json {
        print_line!("{}", serde_json::Value::from_iter(keys.iter().map(|key| json(None, key))))?;
        return Ok(());
    }
    for key in keys {
        let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        let tier = key.tier.as_ref().map_or(switchyard_server::DEFAULT_TIER, |tier| tier.get_ref());
        let expires = key.expires.map_or("never".to_owned(), |at| at.to_string());
        print_line!("{}  {}  {tier}  {}  {expires}", key.digest, key.principal.0, scopes.join(","))?;
    }
    Ok(())
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<()> {
    let digits = args.digest.strip_prefix("sha256:").unwrap_or(&args.digest);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        // The text is not shown, because it may be a key.
        let message =
            "DIGEST: expected hexadecimal digits, as `switchyard key list` prints them after 'sha256:'";
        return Err(InvalidArguments(message.to_owned()).into());
    }
    let wanted = format!("sha256:{}", digits.to_ascii_lowercase());
    let keyring = open_keyring(&load_config(args.config.as_ref())?).await?;
    // A complete digest is revoked even if the store does not have the key: the store may have lost its keys,
    // and nodes are about to write them again.
    if let Ok(digest) = Digest::try_from(wanted.clone()) {
        let (was_there, replication) = revoke_digest(&keyring, &digest).await?;
        let remark = if was_there { "" } else { ", although the store did not have it" };
        print_line!("{digest} is revoked{remark}; its connections close within a second")?;
        report_replication(replication)?;
        return Ok(());
    }
    let keys = keyring.list().await.context("cannot list the keys in the store")?;
    let matching: Vec<_> = keys.iter().filter(|key| key.digest.to_string().starts_with(&wanted)).collect();
    let [key] = matching[..] else {
        match matching.len() {
            0 => bail!(
                "no key in the store has a digest that begins with '{}'; see `switchyard key list`",
                args.digest
            ),
            several => bail!(
                "{several} keys in the store have digests that begin with '{}'; give more of the digest, as \
                 `switchyard key list` prints it",
                args.digest
            ),
        }
    };
    let (_, replication) = revoke_digest(&keyring, &key.digest).await?;
    print_line!("{} of {} is revoked; its connections close within a second", key.digest, key.principal.0)?;
    report_replication(replication)?;
    Ok(())
}

/// Also returns whether the key was in the store.
async fn revoke_digest(keyring: &Keyring, digest: &Digest) -> anyhow::Result<(bool, Replication)> {
    keyring.revoke(digest).await.with_context(|| {
        format!("{digest} may or may not be revoked; it is if `switchyard key list` does not show it")
    })
}

/// Reports how many replicas of the store have the change. One without it may be promoted and lose the change.
fn report_replication(Replication { replicas, confirmed }: Replication) -> Result<(), OutputError> {
    if confirmed < replicas {
        tracing::warn!(
            "only {confirmed} of {replicas} replicas confirmed the change within 1 s. If one without it is promoted, running \
             nodes write the change again; if no node is running, check with `switchyard key list`"
        );
    } else if replicas > 0 {
        let have = if replicas == 1 { "has" } else { "have" };
        print_line!("{confirmed} of {} {have} the change", counted(replicas, "replica"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_when_they_are_parsed() {
        assert_eq!(&*parse_principal("acme").unwrap().0, "acme");
        assert_eq!(parse_principal("a b").unwrap_err(), "expected 1 to 64 of A-Z a-z 0-9 . _ -");
        assert_eq!(parse_tier("pro").unwrap(), "pro");
        assert!(parse_tier("").unwrap_err().contains("[tier.NAME]"));
        assert_eq!(parse_lifetime("90d").unwrap(), Duration::from_secs(90 * 24 * 3600));
        assert_eq!(parse_lifetime("tomorrow").unwrap_err(), "expected something like 90d, 12h or 2y");
        assert!(parse_lifetime("1ms").unwrap_err().contains("at least 1s"));
        assert!(parse_lifetime("10M").unwrap_err().contains("10months"));
    }
}
