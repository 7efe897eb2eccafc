//! `switchyard serve` and `switchyard check`

use crate::{
    config::{Config, environment, find, line},
    key::{Digest, KeyConfig, PrincipalName, Scope, generate},
    node::{Listeners, Node},
    plugin::{Engine, PluginConfig},
    room::Pattern,
    server::Tls,
};
use anyhow::{Context, bail};
use clap::Args;
use std::{net::SocketAddr, path::PathBuf};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub struct ServeArgs {
    /// Without one: memory store, a key made for this run, the plugins in ./plugins
    #[arg(long)]
    config: Option<PathBuf>,
    /// For programs: one line with the addresses
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct CheckArgs {
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Where plugins are looked for without a configuration: NAME.wasm governs NAME and NAME:**.
const PLUGINS: &str = "plugins";

pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let mut config = Config::load(args.config.as_deref(), &environment()).map_err(anyhow::Error::msg)?;
    let key = match args.config {
        Some(_) => None,
        None => {
            config.plugins = found_plugins()?;
            config.share_trust();
            Some(key_of_this_run(&mut config))
        }
    };
    raise_file_limit();
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let (server, admin) = (config.server.clone(), config.admin.listen);
    let node = Node::new(config, args.config).await?;
    let scheme = if server.tls.is_some() { "wss" } else { "ws" };
    let (listen, path) = (server.listen, server.path);
    let server = bind(listen, "server.listen").await?;
    let admin = bind(admin, "admin.listen").await?;
    let url = format!("{scheme}://{}{path}", server.local_addr()?);
    let admin_url = format!("http://{}", admin.local_addr()?);
    if args.json {
        println!("{}", serde_json::json!({"url": url, "admin": admin_url, "key": key}));
    } else {
        println!("clients    {url}\noperators  {admin_url}");
        if let Some(key) = key {
            println!("key        {key}   (good for this run)");
        }
    }
    node.run(Listeners { server, admin }, stop).await;
    Ok(())
}

async fn bind(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{name}: cannot listen on {address}"))
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Every connection is a file, and many systems start processes with a limit of 1,024.
fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

fn key_of_this_run(config: &mut Config) -> String {
    let key = generate();
    config.keys.push(KeyConfig {
        digest: Digest::of(&key),
        principal: PrincipalName("local".into()),
        tier: None,
        scopes: vec![Scope::Subscribe, Scope::Publish, Scope::Broadcast, Scope::Admin],
        expires: None,
    });
    key
}

fn found_plugins() -> anyhow::Result<Vec<PluginConfig>> {
    let Ok(folder) = std::fs::read_dir(PLUGINS) else { return Ok(vec![]) };
    let mut files: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    let plugin = |file: PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let pattern = |text: String| Pattern::try_from(text).map_err(anyhow::Error::msg);
        let rooms = vec![pattern(name.clone())?, pattern(format!("{name}:**"))?];
        Ok(PluginConfig::found(name, file, rooms))
    };
    files.into_iter().map(plugin).collect()
}

/// Everything that is wrong, not only the first.
pub fn check(args: CheckArgs) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref(), &environment()).map_err(anyhow::Error::msg)?;
    let text = args.config.as_ref().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    let place = |at: usize, error: String| match &args.config {
        Some(file) => format!("{}:{}: {error}", file.display(), line(&text, at)),
        None => error,
    };
    let mut wrong = vec![];
    if let Some(Err(error)) = config.server.tls.clone().map(Tls::open) {
        wrong.push(place(find(&text, "server", "tls").start, error));
    }
    if let Err(error) = config.cache.check() {
        wrong.push(place(find(&text, "cache", "folder").start, error));
    }
    if !config.plugins.is_empty() {
        let engine = Engine::new()?;
        for plugin in &config.plugins {
            if let Err(error) = plugin.load(&engine) {
                wrong.push(place(plugin.name.span().start, error));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    let name = args.config.map_or("the defaults".into(), |file| file.display().to_string());
    println!("{name}: good, with {} keys and {} plugins", config.keys.len(), config.plugins.len());
    Ok(())
}
