//! `switchyard plugin dev`: a node that serves the plugin of a folder. Whenever a source file changes, the plugin
//! is built again, by the tools of its language, and loaded. What fails is shown, and the last good version keeps
//! serving.

mod build;
mod sources;
mod tail;

use self::{build::BuildCommand, sources::Sources};
use super::{budget::BudgetArgs, versions};
use crate::{
    admin_client::{AdminCall, AdminClient},
    json_argument::parse_config,
    output::{note, print_line},
    serve::{self, add_temporary_key, start_node, stop_on_signals},
};
use anyhow::Context;
use clap::Args;
use std::{
    fs,
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use switchyard_plugin::{Compiler, PluginConfig};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::room::{RoomPattern, is_valid_word};
use switchyard_server::{ConfigSource, raise_file_limit};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct DevArgs {
    /// The rooms that the plugin governs, separated by commas [default: NAME and NAME:**, where NAME is that of
    /// the folder]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    rooms: Vec<String>,
    /// The configuration to pass to the plugin
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_config)]
    config: serde_json::Value,
    #[command(flatten)]
    budget: BudgetArgs,
    /// The command that builds the plugin [default: cargo, npm or build.sh, whichever the folder is for]
    #[arg(long, value_name = "COMMAND", requires = "file")]
    build: Option<String>,
    /// The file that the command builds
    #[arg(long, value_name = "FILE", requires = "build")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: DevArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let folder = std::env::current_dir().context("the current folder")?;
    let name = plugin_name(&folder)?;
    let rooms = args.room_patterns(&name)?;
    let command = match (args.build.clone(), args.file.clone()) {
        (Some(command), Some(file)) => BuildCommand::Shell { command, file: Some(file) },
        _ => BuildCommand::find(&folder)?,
    };
    let mut sources = Sources::watch(folder)?;
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        first = first_build(&command, &mut sources) => first?,
    };
    let served = ServedFile::new(&name, &first)?;
    let plugin = PluginConfig {
        config: toml::Table::try_from(&args.config).context("--config")?,
        budget: args.budget.config(),
        ..PluginConfig::for_file(name.clone(), served.file.clone(), rooms)
    };
    raise_file_limit();
    let vitals = VitalTasks::default();
    let source = ConfigSource::open(None, &vitals).context("files cannot be watched")?;
    let mut config = source.load().await.map_err(anyhow::Error::msg)?;
    config.compiler = Compiler::ChildProcess;
    config.plugins = vec![plugin];
    config.copy_trust_to_plugins();
    let key = add_temporary_key(&mut config);
    let Some(node) = start_node(config, source, vitals, &stop).await? else { return Ok(()) };
    let addresses = node.address_lines(Some(&key));
    let admin = Arc::new(AdminClient::local(node.admin, key));
    let (loaded, (began, begins)) = (Arc::new(Notify::new()), oneshot::channel());
    let tail = tail::print_calls(admin.clone(), name.clone(), loaded.clone(), began);
    // Whoever knows the addresses can make calls, and those are to be printed.
    let announce = async {
        begins.await.ok();
        serve::print(addresses).await;
        pending().await
    };
    let develop = async {
        loop {
            rebuild(&command, &mut sources, &admin, &name, &loaded).await?;
        }
    };
    tokio::select! {
        ended = node.run(stop.clone()) => ended,
        ended = tail => ended,
        failed = develop => failed,
        never = announce => never,
    }
}

impl DevArgs {
    fn room_patterns(&self, name: &str) -> anyhow::Result<Vec<RoomPattern>> {
        let own = [name.to_owned(), format!("{name}:**")];
        let patterns = if self.rooms.is_empty() { &own[..] } else { &self.rooms };
        let parse = |text: &String| {
            RoomPattern::try_from(text.clone()).map_err(|error| anyhow::anyhow!("--rooms {text}: {error}"))
        };
        patterns.iter().map(parse).collect()
    }
}

/// The name of the folder, which becomes that of the plugin.
fn plugin_name(folder: &Path) -> anyhow::Result<String> {
    let name = folder.file_name().and_then(|name| name.to_str()).filter(|name| is_valid_word(name));
    let name = name.with_context(|| {
        format!(
            "{}: the name of the folder becomes that of the plugin, and must be 1 to 64 of A-Z a-z 0-9 . _ -",
            folder.display()
        )
    })?;
    Ok(name.to_owned())
}

/// Builds until it succeeds, after each change once.
async fn first_build(command: &BuildCommand, sources: &mut Sources) -> anyhow::Result<Vec<u8>> {
    loop {
        match command.run().await {
            Ok(plugin) => return Ok(plugin),
            Err(error) => note(format_args!("{error:#}; waiting for a change")),
        }
        sources.changed().await?;
    }
}

/// Waits for a change, builds, and loads what was built.
async fn rebuild(
    command: &BuildCommand,
    sources: &mut Sources,
    admin: &AdminClient,
    name: &str,
    loaded: &Notify,
) -> anyhow::Result<()> {
    sources.changed().await?;
    let began = Instant::now();
    let body = match command.run().await {
        Ok(plugin) => plugin,
        Err(error) => {
            note(format_args!("{error:#}; the last good version keeps serving"));
            return Ok(());
        }
    };
    let path = versions::path(name, "");
    match admin.deploy(AdminCall { method: "PUT", path: &path, signature: None, body }).await {
        Err(error) => note(format_args!("{error:#}; the last good version keeps serving")),
        Ok(plugin) => {
            let info = &plugin["plugin"];
            let (version, sha256) = (versions::text_of(&info["version"]), versions::short(&info["sha256"]));
            print_line!("loaded {version} {sha256} after {:.1} s", began.elapsed().as_secs_f64())?;
            loaded.notify_one();
        }
    }
    Ok(())
}

/// The first version, in a file that no build replaces: later versions are loaded over HTTP, which says what is
/// wrong with them.
struct ServedFile {
    folder: PathBuf,
    file: PathBuf,
}

impl ServedFile {
    fn new(name: &str, plugin: &[u8]) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("switchyard-dev-{}", std::process::id()));
        let file = folder.join(format!("{name}.wasm"));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let served = Self { folder, file };
        fs::write(&served.file, plugin).with_context(|| served.file.display().to_string())?;
        Ok(served)
    }
}

impl Drop for ServedFile {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}
