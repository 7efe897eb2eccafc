//! `switchyard key`: creates API keys, and manages those in the store that all nodes share.

mod new_key;

use crate::{
    count::counted,
    output::{InvalidArguments, OutputError, print_line},
};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use new_key::{KeyArgs, json, key_config, print_new};
use std::{path::PathBuf, time::Duration};
use switchyard_server::{
    config::{Config, read_environment},
    generate_key,
};
use switchyard_store::{
    Keyring, Replication,
    grant::Grants,
    key::{Digest, KeyConfig, KeyId},
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
    /// The key's id or its digest as `key list` prints them, or enough of the digest's beginning to be unique
    key: String,
    /// The node's configuration file, which names the store
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::New(args) => {
            let key = generate_key();
            let config = key_config(&args, Digest::of(&key))?;
            Ok(print_new(&args, &key, &config)?)
        }
        KeyCommand::Add(args) => add(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => revoke(args).await,
    }
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
    let new = key_config(&args.key, digest)?;
    if config.keys.iter().any(|key| key.id() == new.id() && key.digest != digest) {
        bail!("--id: '{}' is the id of a key in the configuration; choose another one", new.id());
    }
    let keyring = open_keyring(&config).await?;
    let stored = keyring.list().await.context("cannot list the keys in the store")?;
    if stored.iter().any(|key| key.id() == new.id() && key.digest != digest) {
        bail!(
            "--id: '{}' is the id of another key in the store; choose another one, or revoke that key first",
            new.id()
        );
    }
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
        let rooms: Vec<_> = key.rooms.iter().flat_map(Grants::iter).map(ToString::to_string).collect();
        let rooms = if key.rooms.is_none() { String::new() } else { format!("  {}", rooms.join(" ")) };
        let (id, principal, scopes) = (key.id(), &key.principal.0, scopes.join(","));
        print_line!("{}  {id}  {principal}  {tier}  {scopes}  {expires}{rooms}", key.digest)?;
    }
    Ok(())
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<()> {
    let digits = args.key.strip_prefix("sha256:").unwrap_or(&args.key).to_ascii_lowercase();
    let is_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digits && KeyId::try_from(args.key.clone()).is_err() {
        let message = "KEY: expected the id of a key or hexadecimal digits of its digest, as `switchyard key list` prints them";
        return Err(InvalidArguments(message.to_owned()).into());
    }
    let keyring = open_keyring(&load_config(args.config.as_ref())?).await?;
    // A complete digest is revoked even if the store does not have the key: the store may have lost its keys,
    // and nodes are about to write them again.
    if let Ok(digest) = Digest::try_from(format!("sha256:{digits}")) {
        let (was_there, replication) = revoke_digest(&keyring, &digest).await?;
        let remark = if was_there { "" } else { ", although the store did not have it" };
        print_line!("{digest} is revoked{remark}; its connections close within a second")?;
        report_replication(replication)?;
        return Ok(());
    }
    let keys = keyring.list().await.context("cannot list the keys in the store")?;
    let has_digits =
        |key: &&KeyConfig| is_digits && key.digest.to_string()["sha256:".len()..].starts_with(&digits);
    let mut matching: Vec<_> = keys.iter().filter(|key| *key.id() == args.key).collect();
    if matching.is_empty() {
        matching = keys.iter().filter(has_digits).collect();
    }
    let [key] = matching[..] else {
        match matching.len() {
            0 if is_digits => bail!(
                "no key in the store has a digest that begins with '{}'; see `switchyard key list`",
                args.key
            ),
            // The text is not shown, because it may be a key.
            0 => bail!("no key in the store has this id; see `switchyard key list`"),
            several => bail!(
                "{several} keys in the store have this id, or digests that begin like this; give more of the digest, as \
                 `switchyard key list` prints it"
            ),
        }
    };
    let (_, replication) = revoke_digest(&keyring, &key.digest).await?;
    let (id, principal) = (key.id(), &key.principal.0);
    print_line!("{id} of {principal} is revoked; its connections close within a second")?;
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
