//! Which version is in charge on running nodes: seen, changed and taken back over the admin listener of one of them.

use crate::{
    admin::{Admin, AdminArgs},
    client::note,
    output::{OutputError, print_line},
};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use switchyard_plugin::{read_signature, signature_file};

/// How long other nodes are awaited after a load: each looks twice a second and compiles.
const OTHERS: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only this one, with its versions
    name: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct LoadArgs {
    /// As the node's configuration calls it
    name: String,
    /// A core module or a component; FILE.sig is its signature, if it is there
    file: PathBuf,
    /// Only beside the version in charge, to be compared with it; see `plugin diff`
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct RollbackArgs {
    /// As the node's configuration calls it
    name: String,
    /// The version whose SHA-256 begins so, instead of the one before
    #[arg(long, value_name = "SHA256")]
    to: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct NameArgs {
    /// As the node's configuration calls it
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) async fn list(args: ListArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    let answer = match &args.name {
        None => admin.call("GET", "/v1/plugins", vec![]).await?,
        Some(name) => admin.call("GET", &path(name, ""), vec![]).await?,
    };
    if args.admin.json {
        print_line!("{answer}")?;
        return Ok(());
    }
    if args.name.is_some() {
        show(&answer)?;
        if let Some(reason) = answer["refused"].as_str() {
            print_line!("  as it was configured before: {reason}")?;
        }
        list_of(&answer["versions"]).try_for_each(show_version)?;
    }
    Ok(list_of(&answer["plugins"]).try_for_each(show)?)
}

pub(super) async fn load(args: LoadArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let beside = signature_file(&args.file);
    let signature = read_signature(&beside).with_context(|| beside.display().to_string())?;
    let header = signature.as_deref().map(|text| ("X-Signature", text.trim()));
    if args.shadow {
        let plugin = admin.call_with("PUT", &path(&args.name, "/shadow"), header, bytes).await?;
        return said(
            &args.admin,
            &plugin,
            &format!("runs in the shadow; see switchyard plugin diff {}", args.name),
        );
    }
    let plugin = admin.call_with("PUT", &path(&args.name, ""), header, bytes).await?;
    changed(&admin, &args.admin, &args.name, plugin).await
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    let to = args.to.as_ref().map(|to| format!("?to={}", plain(to))).unwrap_or_default();
    let plugin = admin.call("POST", &path(&args.name, &format!("/rollback{to}")), vec![]).await?;
    changed(&admin, &args.admin, &args.name, plugin).await
}

pub(super) async fn promote(args: NameArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    let plugin = admin.call("POST", &path(&args.name, "/shadow/promote"), vec![]).await?;
    changed(&admin, &args.admin, &args.name, plugin).await
}

pub(super) async fn drop_candidate(args: NameArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    let plugin = admin.call("DELETE", &path(&args.name, "/shadow"), vec![]).await?;
    said(&args.admin, &plugin, "the candidate is dropped")
}

/// Where the candidate's answers differ from those of the version in charge.
pub(super) async fn diff(args: NameArgs) -> anyhow::Result<()> {
    let shadow = Admin::open(&args.admin)?.call("GET", &path(&args.name, "/shadow"), vec![]).await?;
    if args.admin.json {
        print_line!("{shadow}")?;
        return Ok(());
    }
    print_line!("candidate {} {}", text(&shadow["version"]), short(&shadow["sha256"]))?;
    print_line!("{:10}{:>10}{:>12}{:>10}", "hook", "same", "different", "failed")?;
    for (hook, compared) in shadow["hooks"].as_object().into_iter().flatten() {
        let [same, different, failed] =
            ["same", "different", "failed"].map(|count| compared[count].to_string());
        print_line!("{hook:10}{same:>10}{different:>12}{failed:>10}")?;
    }
    for (hook, compared) in shadow["hooks"].as_object().into_iter().flatten() {
        for sample in list_of(&compared["samples"]) {
            print_line!("")?;
            print_line!("{hook}     {}", sample["asked"])?;
            print_line!("active     {}", sample["active"])?;
            print_line!("candidate  {}", sample["candidate"])?;
        }
    }
    if let Some(skipped) = shadow["skipped"].as_u64().filter(|skipped| *skipped > 0) {
        note(format_args!("{skipped} questions were not put to the candidate, because it was too slow"));
    }
    if let Some(failure) = shadow["status"]["last_failure"].as_str() {
        note(format_args!("its last failure: {failure}"));
    }
    Ok(())
}

/// A name that would not be one of a path is no plugin's either: the node says which there are.
fn path(name: &str, rest: &str) -> String {
    format!("/v1/plugins/{}{rest}", plain(name))
}

fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    text.chars().map(plain).collect()
}

fn said(args: &AdminArgs, plugin: &Value, what: &str) -> anyhow::Result<()> {
    match args.json {
        true => print_line!("{plugin}")?,
        false => print_line!("{}  {what}", text(&plugin["name"]))?,
    }
    Ok(())
}

/// Waits until each node runs what is in charge now, or says why it does not.
async fn changed(admin: &Admin, args: &AdminArgs, name: &str, mut plugin: Value) -> anyhow::Result<()> {
    let (generation, end) = (plugin["generation"].as_u64(), Instant::now() + OTHERS);
    let is_behind = |node: &Value| node["generation"].as_u64() < generation;
    while list_of(&plugin["nodes"]).any(is_behind) && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        plugin = admin.call("GET", &path(name, ""), vec![]).await?;
    }
    match args.json {
        true => print_line!("{plugin}")?,
        false => show(&plugin)?,
    }
    let lacking = |node: &&Value| is_behind(node) || !node["behind"].is_null();
    let lacking: Vec<_> = list_of(&plugin["nodes"]).filter(lacking).map(|node| text(&node["host"])).collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => bail!("not on {}: see switchyard plugin list {name}", lacking.join(", ")),
    }
}

fn list_of(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// The beginning of a digest.
fn short(sha256: &Value) -> String {
    let sha256 = text(sha256);
    sha256.get(..12).unwrap_or(&sha256).to_owned()
}

/// A line: name, state, version, digest, rooms, and what is wrong. More, where there are several nodes.
fn show(plugin: &Value) -> Result<(), OutputError> {
    let rooms: Vec<_> = list_of(&plugin["rooms"]).map(text).collect();
    let info = &plugin["plugin"];
    let mut parts = vec![text(&plugin["name"]), text(&plugin["state"])];
    if info.is_object() {
        parts.extend([text(&info["version"]), short(&info["sha256"])]);
    }
    parts.push(rooms.join(","));
    parts.extend(plugin["reason"].as_str().map(str::to_owned));
    print_line!("{}", parts.join("  "))?;
    if list_of(&plugin["nodes"]).count() < 2 && list_of(&plugin["nodes"]).all(|node| node["behind"].is_null())
    {
        return Ok(());
    }
    for node in list_of(&plugin["nodes"]) {
        let mut parts = vec![text(&node["host"]), text(&node["state"]), text(&node["version"])];
        parts.push(short(&node["sha256"]));
        parts.extend(node["behind"].as_str().or(node["reason"].as_str()).map(str::to_owned));
        print_line!("  on {}", parts.join("  "))?;
    }
    Ok(())
}

/// A line: digest, version, state, how it came and by whom, and what is wrong.
fn show_version(version: &Value) -> Result<(), OutputError> {
    let mut parts = vec![short(&version["sha256"]), text(&version["version"]), text(&version["state"])];
    parts.push(text(&version["how"]));
    parts.extend(version["by"].as_str().map(|by| format!("by {by}")));
    parts.extend(version["reason"].as_str().map(str::to_owned));
    print_line!("  {}", parts.join("  "))
}
