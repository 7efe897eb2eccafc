//! `switchyard serve` and `switchyard check`

use super::signals::Signals;
use crate::output::{Faults, line_when_it_is_taken, print_line, remark};
use anyhow::Context;
use clap::Args;
use std::{io, net::SocketAddr, path::PathBuf};
use switchyard_plugin::{Compiler, Engine, PluginConfig};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::room::{RoomPattern, is_valid_principal};
use switchyard_server::{
    Admin, Listeners, Node, Source, Tls,
    config::{Config, Text, environment, find, line},
    generate_key, raise_file_limit,
};
use switchyard_store::key::{Digest, KeyConfig, PrincipalName, Scope};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Without one: memory store, a key made for this run, the plugins in ./plugins
    #[arg(long)]
    config: Option<PathBuf>,
    /// For programs: one line with the addresses
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Where plugins are looked for without a configuration: NAME.wasm governs NAME and NAME:**.
const PLUGINS: &str = "plugins";

pub(crate) async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let vitals = VitalTasks::default();
    let source = Source::open(args.config.clone(), &vitals).context("files cannot be watched")?;
    let (config, key) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        loaded = load(&source) => loaded?,
    };
    config.risks(source.file()).iter().for_each(|risk| tracing::warn!("{risk}"));
    raise_file_limit();
    let scheme = if config.server.tls.is_some() { "wss" } else { "ws" };
    let (listen, path) = (config.server.listen, config.server.path.clone());
    // The port is this node's from now on, but who comes is refused until there is somebody to answer.
    let server = reserve(listen).with_context(|| cannot_listen("server.listen", listen))?;
    let admin = bind(config.admin.listen, "admin.listen").await?;
    let admin = Admin::start(admin, vitals)?;
    let admin_url = format!("http://{}", admin.address);
    tracing::info!("starting; {admin_url}/readyz says what is waited for");
    let Some(node) = Node::start(config, source, &admin, &stop).await? else { return Ok(()) };
    let server = server.listen(BACKLOG).with_context(|| cannot_listen("server.listen", listen))?;
    // Whoever reads the addresses finds everything there.
    node.open(&admin);
    let url = format!("{scheme}://{}{path}", server.local_addr()?);
    let mut lines = vec![format!("clients    {url}"), format!("operators  {admin_url}")];
    lines.extend(key.as_ref().map(|key| format!("key        {key}   (good for this run)")));
    if args.json {
        lines = vec![serde_json::json!({"url": url, "admin": admin_url, "key": key}).to_string()];
    }
    // Not awaited: whoever reads it may be stopped, and the pipe full.
    tokio::spawn(print(lines));
    node.run(Listeners { server, admin }, stop).await
}

/// The configuration, and the key that is made where there is none. Its files may be long in coming.
async fn load(source: &Source) -> anyhow::Result<(Config, Option<String>)> {
    let mut config = source.load().await.map_err(anyhow::Error::msg)?;
    config.compiler = Compiler::ChildProcess;
    if source.file().is_some() {
        return Ok((config, None));
    }
    config.plugins = source.reader().wait(found_plugins).await??;
    config.share_trust();
    let key = key_of_this_run(&mut config);
    Ok((config, Some(key)))
}

async fn print(lines: Vec<String>) {
    for line in lines {
        if let Err(error) = line_when_it_is_taken(&line).await {
            let error: &dyn std::error::Error = &error;
            return tracing::warn!(error, "the addresses cannot be printed; serving all the same");
        }
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// The address, taken but not listened on.
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn bind(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| cannot_listen(name, address))
}

fn cannot_listen(name: &str, address: SocketAddr) -> String {
    format!("{name}: cannot listen on {address}")
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut signals = Signals::heed()?;
    tokio::spawn(async move {
        signals.received().await;
        stop.cancel();
    });
    Ok(())
}

fn key_of_this_run(config: &mut Config) -> String {
    let key = generate_key();
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
    // Such as `orderbook (1).wasm`, which a browser writes beside `orderbook.wasm`.
    files.retain(|file| {
        let is_name = file.file_stem().is_some_and(|name| name.to_str().is_some_and(is_valid_principal));
        if !is_name {
            let file = file.display();
            tracing::warn!("{file} is not loaded, for a plugin's name is 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        is_name
    });
    let plugin = |file: PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let pattern = |text: String| RoomPattern::try_from(text).map_err(anyhow::Error::msg);
        let rooms = vec![pattern(name.clone())?, pattern(format!("{name}:**"))?];
        Ok(PluginConfig::for_file(name, file, rooms))
    };
    files.into_iter().map(plugin).collect()
}

/// Everything that is wrong, not only the first.
pub(crate) fn check(args: CheckArgs) -> anyhow::Result<()> {
    // Once, for a pipe has it once.
    let text = args.config.as_deref().map(Text::first).transpose().map_err(anyhow::Error::msg)?;
    let config = environment().and_then(|environment| match &text {
        Some(text) => text.config(&environment),
        None => Config::load(None, &environment),
    });
    let config = config.map_err(anyhow::Error::msg)?;
    let text = text.as_ref().map_or("", Text::as_str);
    let place = |at: usize, error: String| match &args.config {
        Some(file) => format!("{}:{}: {error}", file.display(), line(text, at)),
        None => error,
    };
    let mut wrong = vec![];
    if let Some(Err(error)) = config.server.tls.clone().map(Tls::open) {
        wrong.push(place(find(text, "server", "tls").start, error));
    }
    if let Err(error) = config.cache.check() {
        wrong.push(place(find(text, "cache", "folder").start, error.to_string()));
    }
    if !config.plugins.is_empty() {
        let engine = Engine::with_compiler_limits()?;
        for plugin in &config.plugins {
            if let Err(error) = plugin.load(&engine) {
                wrong.push(place(plugin.name.span().start, error.to_string()));
            }
        }
    }
    if !wrong.is_empty() {
        return Err(Faults(wrong).into());
    }
    config.risks(args.config.as_deref()).iter().for_each(|risk| remark(format_args!("switchyard: {risk}")));
    let name = args.config.map_or("the defaults".into(), |file| file.display().to_string());
    print_line!("{name}: good, with {} keys and {} plugins", config.keys.len(), config.plugins.len())?;
    Ok(())
}
