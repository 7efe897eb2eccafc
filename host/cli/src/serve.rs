//! `switchyard serve`: runs a node until SIGTERM or SIGINT, with a configuration or with defaults for a first
//! try.

use crate::{output::write_result_line_when_ready, signals::StopSignals};
use anyhow::Context;
use clap::Args;
use std::{io, net::SocketAddr, path::PathBuf};
use switchyard_plugin::{Compiler, PluginConfig};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::room::{RoomPattern, is_valid_word};
use switchyard_server::{
    AdminListener, ConfigSource, Listeners, Node, config::Config, generate_key, raise_file_limit,
};
use switchyard_store::key::{Digest, KeyConfig, PrincipalName, Scope};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The configuration file [default: a memory store, a key generated for this run, and the plugins in
    /// ./plugins]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the addresses as one line of JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Without a configuration, plugins are loaded from this folder: `NAME.wasm` governs the rooms `NAME` and
/// `NAME:**`.
const PLUGINS_FOLDER: &str = "plugins";

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let vitals = VitalTasks::default();
    let source = ConfigSource::open(args.config.clone(), &vitals).context("files cannot be watched")?;
    let (config, key) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        loaded = load(&source) => loaded?,
    };
    config.warnings(source.file()).iter().for_each(|warning| tracing::warn!("{warning}"));
    raise_file_limit();
    let Some(started) = start_node(config, source, vitals, &stop).await? else { return Ok(()) };
    let mut lines = started.address_lines(key.as_deref());
    if args.json {
        lines = vec![
            serde_json::json!({"url": started.url, "admin": started.admin_url(), "key": key}).to_string(),
        ];
    }
    // Not awaited, because the reader of standard output may be stopped and the pipe full.
    tokio::spawn(print(lines));
    started.run(stop).await
}

/// A node that is ready, and whose listeners are open.
pub(crate) struct StartedNode {
    node: Node,
    listeners: Listeners,
    /// The URL for clients.
    url: String,
    pub(crate) admin: SocketAddr,
}

/// Starts a node. `None` if it was stopped meanwhile.
pub(crate) async fn start_node(
    config: Config,
    source: ConfigSource,
    vitals: VitalTasks,
    stop: &CancellationToken,
) -> anyhow::Result<Option<StartedNode>> {
    let scheme = if config.server.tls.is_some() { "wss" } else { "ws" };
    let (listen, path) = (config.server.listen, config.server.path.clone());
    // Reserves the port for this node, but refuses connections until the node can answer them.
    let server = reserve(listen).with_context(|| cannot_listen("server.listen", listen))?;
    let admin = bind(config.admin.listen, "admin.listen").await?;
    let admin = AdminListener::start(admin, vitals)?;
    tracing::info!("starting; http://{}/readyz shows what the node is waiting for", admin.address);
    let Some(node) = Node::start(config, source, &admin, stop).await? else { return Ok(None) };
    let server = server.listen(ACCEPT_BACKLOG).with_context(|| cannot_listen("server.listen", listen))?;
    // Before the addresses are printed, so that whoever reads them can use every call.
    node.open(&admin);
    let url = format!("{scheme}://{}{path}", server.local_addr()?);
    tracing::info!("serving clients at {url}, and operators at http://{}", admin.address);
    let address = admin.address;
    Ok(Some(StartedNode { node, listeners: Listeners { server, admin }, url, admin: address }))
}

impl StartedNode {
    fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// What to tell the user: the addresses, and the key that was generated for this run.
    pub(crate) fn address_lines(&self, key: Option<&str>) -> Vec<String> {
        let mut lines = vec![format!("clients    {}", self.url), format!("operators  {}", self.admin_url())];
        lines.extend(key.map(|key| format!("key        {key}   (valid for this run only)")));
        lines
    }

    /// Runs it until it is stopped.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        Ok(self.node.run(self.listeners, stop).await?)
    }
}

/// Loads the configuration. Without a file, also generates the key for this run. Reading the files may take
/// forever.
async fn load(source: &ConfigSource) -> anyhow::Result<(Config, Option<String>)> {
    let mut config = source.load().await.map_err(anyhow::Error::msg)?;
    config.compiler = Compiler::ChildProcess;
    if source.file().is_some() {
        return Ok((config, None));
    }
    config.plugins = source.reader().run_without_timeout(find_plugins).await??;
    config.copy_trust_to_plugins();
    let key = add_temporary_key(&mut config);
    Ok((config, Some(key)))
}

pub(crate) async fn print(lines: Vec<String>) {
    for line in lines {
        if let Err(error) = write_result_line_when_ready(&line).await {
            let error: &dyn std::error::Error = &error;
            return tracing::warn!(error, "the addresses cannot be printed; serving all the same");
        }
    }
}

/// Maximum number of connections that the system holds until they are accepted.
const ACCEPT_BACKLOG: u32 = 1024;

/// Binds the address without listening on it.
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

pub(crate) fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut signals = StopSignals::catch()?;
    tokio::spawn(async move {
        signals.received().await;
        stop.cancel();
    });
    Ok(())
}

/// Adds a new key with every scope to the configuration, and returns it.
pub(crate) fn add_temporary_key(config: &mut Config) -> String {
    let key = generate_key();
    let principal = PrincipalName("local".into());
    config.keys.push(KeyConfig::new(Digest::of(&key), principal, Scope::ALL.into()));
    key
}

fn find_plugins() -> anyhow::Result<Vec<PluginConfig>> {
    let Ok(folder) = std::fs::read_dir(PLUGINS_FOLDER) else { return Ok(vec![]) };
    let mut files: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    // For example, browsers save `orderbook (1).wasm` next to `orderbook.wasm`.
    files.retain(|file| {
        let is_name = file.file_stem().is_some_and(|name| name.to_str().is_some_and(is_valid_word));
        if !is_name {
            let file = file.display();
            tracing::warn!(
                "{file} is not loaded, because its name is not a valid plugin name: 1 to 64 of A-Z a-z 0-9 . _ -"
            );
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
