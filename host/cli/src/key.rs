//! `switchyard key`

use crate::output::{OutputError, print_line};
use anyhow::{Context, bail};
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use std::{path::PathBuf, time::Duration};
use switchyard_process::unit::parse_duration;
use switchyard_protocol::{room::is_valid_principal, unix_ms};
use switchyard_server::{
    config::{Config, environment},
    generate_key,
};
use switchyard_store::{
    Keyring, Replication,
    key::{Digest, Expiry, KeyConfig, PrincipalName, Scope},
};

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key: shown once, with what belongs into the configuration
    New(KeyArgs),
    /// Make a key and put it into the store, where every node finds it within a second
    Add(AddArgs),
    /// List the keys in the store
    List(StoreArgs),
    /// Take a key out of the store; its connections close within a second
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub(crate) struct KeyArgs {
    /// Whose key it is
    #[arg(long)]
    principal: String,
    /// What it may do
    #[arg(long, value_delimiter = ',', required = true, value_parser = scopes())]
    scope: Vec<Scope>,
    /// A configured [tier.NAME]
    #[arg(long)]
    tier: Option<String>,
    /// For how long it is good, such as 90d
    #[arg(long, value_parser = parse_life)]
    expires: Option<Duration>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Of a key that exists already: it is put into the store, and nothing is made
    #[arg(long)]
    digest: Option<String>,
    /// The configuration, which says where the store is
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct StoreArgs {
    /// The configuration, which says where the store is
    #[arg(long)]
    config: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    /// As `key list` shows it; its beginning is enough where it says which one
    digest: String,
    /// The configuration, which says where the store is
    #[arg(long)]
    config: Option<PathBuf>,
}

fn scopes() -> impl TypedValueParser<Value = Scope> {
    PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)).map(|name| {
        let named = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
        named.expect("it is one of the possible values")
    })
}

pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::New(args) => {
            let key = generate_key();
            let made = make(&args, Digest::of(&key))?;
            Ok(new(&args, &key, &made)?)
        }
        KeyCommand::Add(args) => add(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => revoke(args).await,
    }
}

fn make(args: &KeyArgs, digest: Digest) -> anyhow::Result<KeyConfig> {
    if !is_valid_principal(&args.principal) {
        bail!("'{}' is no principal's name: 1 to 64 of A-Z a-z 0-9 . _ -", args.principal);
    }
    Ok(KeyConfig {
        digest,
        principal: PrincipalName(args.principal.as_str().into()),
        tier: args.tier.clone().map(|tier| toml::Spanned::new(0..0, tier)),
        scopes: args.scope.clone(),
        // Whole seconds, as a configuration shows it.
        expires: args.expires.map(|age| Expiry((unix_ms() + age.as_millis() as u64) / 1000 * 1000)),
    })
}

/// Of a key that is made now.
fn parse_life(text: &str) -> Result<Duration, String> {
    match parse_duration(text).map_err(|error| error.to_string())? {
        life if life < Duration::from_secs(1) => {
            Err(format!("'{text}' is over at once; it is 1s at least, such as 90d"))
        }
        life => Ok(life),
    }
}

/// `key` is the key itself, where it was made just now.
fn json(key: Option<&str>, of: &KeyConfig) -> serde_json::Value {
    let mut shown = serde_json::json!({
        "digest": of.digest.to_string(), "principal": of.principal.0, "scopes": of.scopes,
        "tier": of.tier.as_ref().map(|tier| tier.get_ref()), "expires": of.expires.map(|at| at.to_string()),
    });
    if let Some(key) = key {
        shown["key"] = key.into();
    }
    shown
}

fn new(args: &KeyArgs, key: &str, made: &KeyConfig) -> Result<(), OutputError> {
    if args.json {
        return print_line!("{}", json(Some(key), made));
    }
    print_line!("{key}")?;
    print_line!("")?;
    print_line!("Keep it: it is shown this once. The configuration holds only its digest:")?;
    print_line!("")?;
    print_line!("[[key]]")?;
    print_line!("digest = \"{}\"", made.digest)?;
    print_line!("principal = \"{}\"", args.principal)?;
    if let Some(tier) = &args.tier {
        print_line!("tier = \"{tier}\"")?;
    }
    let scopes: Vec<_> = args.scope.iter().map(|scope| format!("\"{}\"", scope.as_str())).collect();
    print_line!("scopes = [{}]", scopes.join(", "))?;
    if let Some(expires) = made.expires {
        print_line!("expires = {expires}")?;
    }
    Ok(())
}

fn configured(file: Option<&PathBuf>) -> anyhow::Result<Config> {
    let config = environment().and_then(|environment| Config::load(file.map(PathBuf::as_path), &environment));
    config.map_err(anyhow::Error::msg)
}

async fn keyring(config: &Config) -> anyhow::Result<Keyring> {
    let Some(site) = config.store.site() else {
        bail!(
            "store.url is memory, which keeps no keys: name one that is elsewhere with --config or \
             SWITCHYARD_STORE__URL, or put a [[key]] into the configuration"
        );
    };
    Keyring::open(&site).await.map_err(anyhow::Error::msg)
}

async fn add(args: AddArgs) -> anyhow::Result<()> {
    let config = configured(args.config.as_ref())?;
    if let Some(tier) = args.key.tier.as_ref().filter(|tier| !config.tiers.contains_key(*tier)) {
        bail!("tier '{tier}' is not configured; add [tier.{tier}] to the configuration of every node");
    }
    let (key, digest) = match args.digest {
        Some(digest) => (None, Digest::try_from(digest).map_err(anyhow::Error::msg)?),
        None => {
            let key = generate_key();
            let digest = Digest::of(&key);
            (Some(key), digest)
        }
    };
    let made = make(&args.key, digest)?;
    let keyring = keyring(&config).await?;
    let replication = match keyring.add(&made).await {
        Ok(replication) => replication,
        // The answer may be all that was lost.
        Err(error) => {
            if key.is_some() {
                withdraw(&keyring, &made.digest).await;
            }
            return Err(error.into());
        }
    };
    let shown = match (args.key.json, &key) {
        (true, key) => {
            let mut shown = json(key.as_deref(), &made);
            shown["replication"] = serde_json::to_value(replication).expect("plain data");
            print_line!("{shown}")
        }
        (false, Some(key)) => {
            [key, "", "Keep it: it is shown this once."].iter().try_for_each(|line| print_line!("{line}"))
        }
        (false, None) => Ok(()),
    };
    if let Err(error) = shown {
        if key.is_some() {
            withdraw(&keyring, &made.digest).await;
        }
        return Err(error.into());
    }
    if args.key.json {
        return Ok(());
    }
    print_line!(
        "Every node knows it within a second. To take it back: switchyard key revoke {}",
        made.digest
    )?;
    report_replication(replication)?;
    Ok(())
}

/// A key that nobody was shown would be good for nobody, and for ever.
async fn withdraw(keyring: &Keyring, digest: &Digest) {
    let mut result = keyring.revoke(digest).await;
    // What kept the answer away may be over in a moment.
    for _ in 0..5 {
        if result.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        result = keyring.revoke(digest).await;
    }
    if let Err(error) = result {
        tracing::warn!(
            "a key that was not shown may be in the store: {error}. See `switchyard key list`, and take it out with \
             `switchyard key revoke {digest}`"
        );
    }
}

async fn list(args: StoreArgs) -> anyhow::Result<()> {
    let keys = keyring(&configured(args.config.as_ref())?).await?.list().await?;
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
    let keyring = keyring(&configured(args.config.as_ref())?).await?;
    let wanted = match args.digest.strip_prefix("sha256:") {
        Some(_) => args.digest.clone(),
        None => format!("sha256:{}", args.digest),
    };
    // A whole digest needs nothing to be there: the store may have lost its keys, and nodes be about to write them again.
    if let Ok(digest) = Digest::try_from(wanted.clone()) {
        let (was_there, replication) = revoked(&keyring, &digest).await?;
        let before = if was_there { "" } else { "; the store did not have it" };
        print_line!("{digest} is revoked{before}; its connections close within a second")?;
        report_replication(replication)?;
        return Ok(());
    }
    if !wanted.bytes().next_back().is_some_and(|last| last.is_ascii_hexdigit()) {
        bail!("'{}' is the beginning of every digest; give some of the digits behind it", args.digest);
    }
    let keys = keyring.list().await.context("the store's keys")?;
    let found: Vec<_> = keys.iter().filter(|key| key.digest.to_string().starts_with(&wanted)).collect();
    let [key] = found[..] else {
        bail!(
            "{} keys in the store begin with '{}'; `switchyard key list` shows them",
            found.len(),
            args.digest
        );
    };
    let (_, replication) = revoked(&keyring, &key.digest).await?;
    print_line!("{} of {} is revoked; its connections close within a second", key.digest, key.principal.0)?;
    report_replication(replication)?;
    Ok(())
}

async fn revoked(keyring: &Keyring, digest: &Digest) -> anyhow::Result<(bool, Replication)> {
    keyring.revoke(digest).await.with_context(|| {
        format!("whether {digest} is revoked is not known; it is if `switchyard key list` does not show it")
    })
}

/// Says which replicas have what was written, where there are any: one that lacks it may take over.
fn report_replication(Replication { replicas, confirmed }: Replication) -> Result<(), OutputError> {
    if confirmed < replicas {
        tracing::warn!(
            "only {confirmed} of {replicas} replicas confirmed it within 1 s. Should another take over before it has it, nodes \
             that run write it again; without one, look with `switchyard key list`"
        );
    } else if replicas > 0 {
        print_line!("{confirmed} of {replicas} replicas have it")?;
    }
    Ok(())
}
