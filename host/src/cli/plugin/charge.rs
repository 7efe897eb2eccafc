//! Which version is in charge on a running node: seen, changed and taken back over its admin listener.

use crate::cli::admin::{Admin, AdminArgs};
use anyhow::Context;
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct LoadArgs {
    /// As the node's configuration calls it
    name: String,
    /// A core module or a component
    file: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub struct RollbackArgs {
    /// As the node's configuration calls it
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub async fn list(args: ListArgs) -> anyhow::Result<()> {
    let answer = Admin::open(&args.admin)?.call("GET", "/v1/plugins", vec![]).await?;
    if args.admin.json {
        println!("{answer}");
        return Ok(());
    }
    for plugin in answer["plugins"].as_array().into_iter().flatten() {
        show(plugin);
    }
    Ok(())
}

pub async fn load(args: LoadArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    changed(&args.admin, &admin.call("PUT", &path(&args.name, ""), bytes).await?)
}

pub async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let admin = Admin::open(&args.admin)?;
    changed(&args.admin, &admin.call("POST", &path(&args.name, "/rollback"), vec![]).await?)
}

/// A name that would not be one of a path is no plugin's either: the node says which there are.
fn path(name: &str, rest: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("/v1/plugins/{}{rest}", name.chars().map(plain).collect::<String>())
}

fn changed(args: &AdminArgs, plugin: &Value) -> anyhow::Result<()> {
    match args.json {
        true => println!("{plugin}"),
        false => show(plugin),
    }
    Ok(())
}

/// A line: name, state, version, digest, rooms, and how it failed last.
fn show(plugin: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rooms: Vec<_> = plugin["rooms"].as_array().into_iter().flatten().map(text).collect();
    let (name, rooms) = (text(&plugin["name"]), rooms.join(","));
    if let Some(reason) = plugin["failed"].as_str() {
        return println!("{name}  failed  {rooms}  {reason}");
    }
    let info = &plugin["plugin"];
    let sha256 = text(&info["sha256"]);
    let digest = sha256.get(..12).unwrap_or(&sha256);
    println!("{name}  {}  {}  {digest}  {rooms}", text(&plugin["state"]), text(&info["version"]));
}
