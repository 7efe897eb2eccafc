//! `switchyard check`: reports every problem of a configuration, not only the first, and what holds in rooms.

use crate::{
    admin_client::{AdminArgs, AdminCall, AdminClient},
    count::counted,
    output::{Problems, note, print_line},
    plugin::print_preview,
};
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use switchyard_plugin::{Engine, PluginConfig};
use switchyard_protocol::room::RoomName;
use switchyard_server::{
    Tls,
    config::{Config, ConfigFile, RoomPolicyView, find_key, line_number, read_environment},
};

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The configuration file [default: check the built-in defaults and the environment]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask a running node what would change if it reloaded its configuration now
    #[arg(long)]
    diff: bool,
    /// Print what holds in these rooms: the governing plugin, the [[room]] entry, and the policy. Reads no plugins
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = parse_room, conflicts_with = "diff")]
    rooms: Vec<RoomName>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<()> {
    if args.diff && args.config.is_some() {
        bail!(
            "--diff asks a running node, which reads the file that it was started with: leave --config out; --admin says which \
             node is asked"
        );
    }
    if !args.diff && args.rooms.is_empty() && args.admin.json {
        bail!("--json prints what --diff or --rooms finds out: add one of them");
    }
    match args.diff {
        true => diff(&args.admin).await,
        false => check(args),
    }
}

/// Prints what a reload of a node's configuration would change.
async fn diff(args: &AdminArgs) -> anyhow::Result<()> {
    let call = AdminCall { method: "POST", path: "/v1/reload?dry_run=true", signature: None, body: vec![] };
    let report = AdminClient::new(args)?.deploy(call).await?;
    if args.json {
        print_line!("{report}")?;
        return Ok(());
    }
    let list = |key: &str| -> Vec<String> {
        let items = report[key].as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
    };
    match list("changes") {
        changes if changes.is_empty() => print_line!("changes: nothing that takes effect now")?,
        changes => print_line!("changes: {}", changes.join(", "))?,
    }
    for section in list("restart") {
        print_line!("[{section}] takes effect after a restart")?;
    }
    for loss in list("losses") {
        print_line!("needs to be confirmed, with a second SIGHUP: it would {loss}")?;
    }
    print_preview(args, &report["preview"])
}

fn check(args: CheckArgs) -> anyhow::Result<()> {
    // Reads the file once, because a pipe can be read only once.
    let file = args.config.as_deref().map(ConfigFile::open).transpose()?;
    let environment = read_environment()?;
    let config = match &file {
        Some(file) => file.parse_whole(&environment),
        None => Config::load(None, &environment).map_err(|error| vec![error]),
    };
    let config = config.map_err(|errors| Problems(errors.iter().map(ToString::to_string).collect()))?;
    if !args.rooms.is_empty() {
        config.warnings(args.config.as_deref()).iter().for_each(note);
        return print_rooms(&config, &args.rooms, args.admin.json);
    }
    let text = file.as_ref().map_or("", ConfigFile::text);
    let at_line = |offset: usize, error: String| match &args.config {
        Some(file) => format!("{}:{}: {error}", file.display(), line_number(text, offset)),
        None => error,
    };
    let mut problems = vec![];
    if let Some(Err(error)) = config.server.tls.clone().map(Tls::open) {
        problems.push(at_line(find_key(text, "server", "tls").start, error.to_string()));
    }
    if let Err(error) = config.audit.check() {
        problems.push(at_line(find_key(text, "audit", "file").start, error.to_string()));
    }
    for issuer in &config.issuers {
        if let Some(problem) = issuer.find_file_problem() {
            let offset = text.find(&format!("name = \"{}\"", issuer.name)).unwrap_or_default();
            problems.push(at_line(offset, format!("issuer '{}': {problem}", issuer.name)));
        }
    }
    if let Err(error) = config.cache.check() {
        problems.push(at_line(find_key(text, "cache", "folder").start, error.to_string()));
    }
    if !config.plugins.is_empty() {
        let engine = Engine::with_compiler_limits()?;
        for plugin in &config.plugins {
            let offset = plugin.name.span().start;
            match plugin.load(&engine) {
                Err(error) => problems.push(at_line(offset, error.to_string())),
                Ok(loaded) => problems.extend(loaded.config_problems().into_iter().map(|problem| {
                    at_line(offset, format!("plugin '{}': {problem} (its config schema)", plugin.name()))
                })),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    config.warnings(args.config.as_deref()).iter().for_each(note);
    let name = args.config.map_or("the defaults".into(), |file| file.display().to_string());
    let keys = counted(config.keys.len() as u64, "key");
    let plugins = counted(config.plugins.len() as u64, "plugin");
    print_line!("{name}: good, with {keys} and {plugins}")?;
    Ok(())
}

fn parse_room(name: &str) -> Result<RoomName, String> {
    RoomName::parse(name).map_err(|refusal| refusal.message)
}

/// What holds in a room, for programs.
#[derive(Serialize)]
struct RoomReport<'a> {
    room: &'a str,
    /// The plugin of this configuration that governs the room; `null` if none does.
    governor: Option<&'a str>,
    policy: &'a RoomPolicyView,
}

fn print_rooms(config: &Config, rooms: &[RoomName], json: bool) -> anyhow::Result<()> {
    let policies = config.view_rooms(rooms);
    let reports = rooms.iter().zip(&policies).map(|(room, policy)| RoomReport {
        room: room.as_str(),
        governor: config.governor(room).map(PluginConfig::name),
        policy,
    });
    if json {
        let reports: Vec<_> = reports.collect();
        print_line!("{}", serde_json::to_string(&reports)?)?;
        return Ok(());
    }
    for RoomReport { room, governor, policy } in reports {
        let RoomPolicyView { entry, history, sender, publishes, bytes, members } = policy;
        let named = |what: &str, name: Option<&str>| {
            name.map_or_else(|| format!("no {what}"), |name| format!("{what} {name}"))
        };
        let rate = |rate: &Option<String>| rate.clone().unwrap_or_else(|| "unlimited".to_owned());
        let (plugin, entry) = (named("plugin", governor), named("entry", entry.as_deref()));
        let sender = if *sender { "shown" } else { "hidden" };
        let messages = counted(history.messages as u64, "message");
        print_line!(
            "{room}: {plugin}; {entry}; history {messages}, {}, {}; sender {sender}; publishes {}; bytes {}; members {}",
            history.age,
            history.bytes,
            rate(publishes),
            rate(bytes),
            members.as_str()
        )?;
    }
    Ok(())
}
