//! The commands that list, load, compare and roll back the versions of plugins on running nodes, through the
//! admin listener of one of them.

use super::node_progress::{is_behind, wait_for_nodes};
use crate::{
    admin_client::{AdminArgs, AdminCall, AdminClient},
    count::counted,
    output::{OutputError, note, print_line},
};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};
use switchyard_plugin::{MAX_FILE_BYTES, check_file, digest, read_signature, signature_file};

#[derive(Args)]
pub(crate) struct PluginListArgs {
    /// List only this plugin, with its versions
    name: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct LoadArgs {
    /// The plugin's name
    name: String,
    /// The new version: a WebAssembly core module or a component. If FILE.sig exists, it is sent as its
    /// signature
    file: PathBuf,
    /// Do not activate it; run it next to the active version as a shadow candidate, for `plugin diff`
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct RollbackArgs {
    /// The plugin's name
    name: String,
    /// Activate the version whose SHA-256 begins with this, instead of the previous one
    #[arg(long, value_name = "SHA256")]
    to: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct NameArgs {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) async fn list(args: PluginListArgs) -> anyhow::Result<()> {
    let admin = AdminClient::new(&args.admin)?;
    let answer = match &args.name {
        None => admin.call("GET", "/v1/plugins").await?,
        Some(name) => admin.call("GET", &path(name, "")).await?,
    };
    if args.admin.json {
        print_line!("{answer}")?;
        return Ok(());
    }
    if args.name.is_some() {
        print_plugin(&answer)?;
        if let Some(reason) = answer["config_refused"].as_str() {
            print_line!("  running with the previous configuration: {reason}")?;
        }
        // A plugin that fails for some principals only is not in quarantine itself.
        if let Some(times @ 1..) = answer["principals_quarantined"].as_u64() {
            let now = answer["quarantined_principals"].as_u64().unwrap_or_default();
            print_line!("  principals quarantined: {}, {now} of them now", counted(times, "time"))?;
        }
        if let Some(failure) = answer["last_failure"].as_str().filter(|_| answer["reason"].is_null()) {
            print_line!("  last failure: {failure}")?;
        }
        array(&answer["versions"]).try_for_each(print_version)?;
    }
    array(&answer["plugins"]).try_for_each(print_plugin)?;
    array(&answer["candidates"]).try_for_each(print_plugin)?;
    for difference in array(&answer["drift"]) {
        note(text_of(difference));
    }
    Ok(())
}

pub(super) async fn load(args: LoadArgs) -> anyhow::Result<()> {
    let admin = AdminClient::new(&args.admin)?;
    let body = read_plugin(&args.file)?;
    let signature_file = signature_file(&args.file);
    let signature = read_signature(&signature_file).with_context(|| signature_file.display().to_string())?;
    let signature = signature.as_deref().map(str::trim);
    // What can be said without the node's help is said at once, and changes nothing there.
    check_file(&args.name, &body)?;
    let sha256 = digest(&body);
    let before = admin.call("GET", &path(&args.name, "")).await?;
    if args.shadow {
        let path = path(&args.name, "/shadow");
        let plugin = admin.deploy(AdminCall { method: "PUT", path: &path, signature, body }).await?;
        let text = format!("runs as a shadow candidate; see switchyard plugin diff {}", args.name);
        return print_change(&args.admin, &plugin, &text);
    }
    let path = path(&args.name, "");
    let plugin = admin.deploy(AdminCall { method: "PUT", path: &path, signature, body }).await?;
    if before["plugin"]["sha256"] == sha256.as_str() && before["generation"] == plugin["generation"] {
        note(format_args!("version {} was active already", short(&before["plugin"]["sha256"])));
    }
    finish_activation(&admin, &args.admin, &args.name, plugin).await
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let admin = AdminClient::new(&args.admin)?;
    let to = args.to.as_ref().map(|to| format!("?to={}", url_safe(to))).unwrap_or_default();
    let path = path(&args.name, &format!("/rollback{to}"));
    // The node may have to compile an old version again.
    let call = AdminCall { method: "POST", path: &path, signature: None, body: vec![] };
    let plugin = admin.deploy(call).await?;
    finish_activation(&admin, &args.admin, &args.name, plugin).await
}

pub(super) async fn promote(args: NameArgs) -> anyhow::Result<()> {
    let admin = AdminClient::new(&args.admin)?;
    let path = path(&args.name, "/shadow/promote");
    let call = AdminCall { method: "POST", path: &path, signature: None, body: vec![] };
    let plugin = admin.deploy(call).await?;
    finish_activation(&admin, &args.admin, &args.name, plugin).await
}

pub(super) async fn drop_candidate(args: NameArgs) -> anyhow::Result<()> {
    let admin = AdminClient::new(&args.admin)?;
    let plugin = admin.call("DELETE", &path(&args.name, "/shadow")).await?;
    print_change(&args.admin, &plugin, "the candidate is dropped")
}

/// Prints how often the candidate's answers differ from those of the active version, and the newest
/// differences.
pub(super) async fn diff(args: NameArgs) -> anyhow::Result<()> {
    let shadow = AdminClient::new(&args.admin)?.call("GET", &path(&args.name, "/shadow")).await?;
    if args.admin.json {
        print_line!("{shadow}")?;
        return Ok(());
    }
    print_line!("candidate {} {}", text_of(&shadow["version"]), short(&shadow["sha256"]))?;
    print_line!("{:10}{:>10}{:>12}{:>10}", "hook", "same", "different", "failed")?;
    for (hook, compared) in shadow["hooks"].as_object().into_iter().flatten() {
        let [same, different, failed] =
            ["same", "different", "failed"].map(|count| compared[count].to_string());
        print_line!("{hook:10}{same:>10}{different:>12}{failed:>10}")?;
    }
    for (hook, compared) in shadow["hooks"].as_object().into_iter().flatten() {
        for sample in array(&compared["samples"]) {
            print_line!("")?;
            print_line!("{hook}     {}", sample["asked"])?;
            print_line!("active     {}", sample["active"])?;
            print_line!("candidate  {}", sample["candidate"])?;
        }
    }
    if let Some(skipped) = shadow["skipped"].as_u64().filter(|skipped| *skipped > 0) {
        let were = if skipped == 1 { "was" } else { "were" };
        let calls = counted(skipped, "call");
        note(format_args!("{calls} {were} skipped, because the candidate is too slow for the traffic"));
    }
    if let Some(failure) = shadow["status"]["last_failure"].as_str() {
        note(format_args!("the candidate's last failure: {failure}"));
    }
    Ok(())
}

pub(super) fn path(name: &str, rest: &str) -> String {
    format!("/v1/plugins/{}{rest}", url_safe(name))
}

/// Escapes what has a meaning in a URL. The node then answers that there is no such plugin.
fn url_safe(text: &str) -> String {
    let escape = |byte: u8| match byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Reads a plugin to send. No node takes a larger one.
pub(super) fn read_plugin(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut code = vec![];
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    opened
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut code)
        .with_context(|| file.display().to_string())?;
    if code.len() > MAX_FILE_BYTES {
        bail!("{}: larger than {MAX_FILE_BYTES} bytes, the maximum size of a plugin", file.display());
    }
    Ok(code)
}

pub(super) fn print_change(args: &AdminArgs, plugin: &Value, text: &str) -> anyhow::Result<()> {
    match args.json {
        true => print_line!("{plugin}")?,
        false => print_line!("{}  {text}", text_of(&plugin["name"]))?,
    }
    Ok(())
}

/// Waits until all nodes run the active version, and prints what each runs. Fails if one does not.
pub(super) async fn finish_activation(
    admin: &AdminClient,
    args: &AdminArgs,
    name: &str,
    plugin: Value,
) -> anyhow::Result<()> {
    let generation = plugin["generation"].as_u64();
    let plugin = wait_for_nodes(admin, name, plugin).await?;
    match args.json {
        true => print_line!("{plugin}")?,
        false => print_plugin(&plugin)?,
    }
    let is_lagging = |node: &&Value| is_behind(node, generation) || !node["behind"].is_null();
    let lagging: Vec<_> =
        array(&plugin["nodes"]).filter(is_lagging).map(|node| text_of(&node["host"])).collect();
    match lagging.is_empty() {
        true => Ok(()),
        false => bail!(
            "these nodes do not run the active version: {}; see switchyard plugin list {name}",
            lagging.join(", ")
        ),
    }
}

pub(super) fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// The beginning of a digest, enough to tell versions apart.
pub(super) fn short(sha256: &Value) -> String {
    let sha256 = text_of(sha256);
    sha256.get(..12).unwrap_or(&sha256).to_owned()
}

/// Prints a line with name, state, version, digests of code and configuration, rooms, and the failure if there is
/// one, and a line for the candidate. If there are several nodes, or one is behind, also prints a line for each.
fn print_plugin(plugin: &Value) -> Result<(), OutputError> {
    let rooms: Vec<_> = array(&plugin["rooms"]).map(text_of).collect();
    let info = &plugin["plugin"];
    let mut parts = vec![text_of(&plugin["name"]), text_of(&plugin["state"])];
    if info.is_object() {
        parts.extend([text_of(&info["version"]), short(&info["sha256"])]);
        parts.push(format!("config {}", short(&plugin["config_digest"])));
    }
    parts.push(rooms.join(","));
    parts.extend(plugin["reason"].as_str().map(str::to_owned));
    print_line!("{}", parts.join("  "))?;
    print_candidate(&plugin["shadow"])?;
    if array(&plugin["nodes"]).count() < 2 && array(&plugin["nodes"]).all(|node| node["behind"].is_null()) {
        return Ok(());
    }
    for node in array(&plugin["nodes"]) {
        let mut parts = vec![text_of(&node["host"]), text_of(&node["state"]), text_of(&node["version"])];
        parts.push(short(&node["sha256"]));
        parts.extend(
            node["config_digest"].is_string().then(|| format!("config {}", short(&node["config_digest"]))),
        );
        parts.extend(node["behind"].as_str().or(node["reason"].as_str()).map(str::to_owned));
        print_line!("  on {}", parts.join("  "))?;
    }
    Ok(())
}

/// Prints a line for the candidate that runs next to the active version on this node, if there is one.
fn print_candidate(candidate: &Value) -> Result<(), OutputError> {
    if candidate.is_null() {
        return Ok(());
    }
    let failures = candidate["status"]["failures"].as_object().into_iter().flatten();
    let failures = failures.filter_map(|(_, count)| count.as_u64()).sum::<u64>();
    let mut parts = vec![text_of(&candidate["version"]), short(&candidate["sha256"])];
    parts.push(format!("config {}", short(&candidate["config_digest"])));
    parts.push(counted(failures, "failure"));
    print_line!("  candidate  {}", parts.join("  "))
}

/// Prints a line with digest, version, state, source, principal, and the failure if there is one.
fn print_version(version: &Value) -> Result<(), OutputError> {
    let mut parts = vec![short(&version["sha256"]), text_of(&version["version"]), text_of(&version["state"])];
    parts.push(text_of(&version["how"]));
    parts.extend(version["by"].as_str().map(|by| format!("by {by}")));
    parts.extend(version["rolled_back_by"].as_str().map(|by| format!("rolled back by {by}")));
    parts.extend(version["reason"].as_str().map(str::to_owned));
    print_line!("  {}", parts.join("  "))
}
