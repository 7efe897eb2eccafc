//! `switchyard principal` and `switchyard address`: ban them on all nodes, lift bans, and list them. The nodes do it; this
//! calls one of them.

use crate::{
    admin_client::{AdminArgs, AdminCall, AdminClient},
    output::print_line,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use switchyard_store::key::Expiry;

#[derive(Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Ban a principal: its connections close within a second, on every node, and it cannot come back meanwhile
    Ban(BanPrincipalArgs),
    /// Lift the ban of a principal
    Unban(PrincipalArgs),
    /// List the principals that are banned
    Bans(ListArgs),
}

#[derive(Subcommand)]
pub(crate) enum AddressCommand {
    /// Ban an IPv4 address or an IPv6 /64: its connections close within a second, on every node
    Ban(BanAddressArgs),
    /// Lift the ban of an address
    Unban(AddressArgs),
    /// List the addresses that are banned
    Bans(ListArgs),
}

#[derive(Args)]
pub(crate) struct BanPrincipalArgs {
    /// The principal
    principal: String,
    /// For how long, such as 10m or 24h; at most a year
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct PrincipalArgs {
    /// The principal
    principal: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct BanAddressArgs {
    /// The address; an IPv6 address stands for its /64
    address: String,
    /// For how long, such as 10m or 24h; at most a year
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct AddressArgs {
    /// The address; an IPv6 address stands for its /64
    address: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn principal(command: PrincipalCommand) -> anyhow::Result<()> {
    match command {
        PrincipalCommand::Ban(BanPrincipalArgs { principal, duration, admin }) => {
            ban(&admin, "principals", &principal, &duration).await
        }
        PrincipalCommand::Unban(PrincipalArgs { principal, admin }) => {
            unban(&admin, "principals", &principal).await
        }
        PrincipalCommand::Bans(ListArgs { admin }) => list(&admin, "principal").await,
    }
}

pub(crate) async fn address(command: AddressCommand) -> anyhow::Result<()> {
    match command {
        AddressCommand::Ban(BanAddressArgs { address, duration, admin }) => {
            ban(&admin, "addresses", &address, &duration).await
        }
        AddressCommand::Unban(AddressArgs { address, admin }) => unban(&admin, "addresses", &address).await,
        AddressCommand::Bans(ListArgs { admin }) => list(&admin, "address").await,
    }
}

async fn ban(admin: &AdminArgs, of: &str, name: &str, duration: &str) -> anyhow::Result<()> {
    let (path, body) = (path(of, name), json!({"for": duration}).to_string().into_bytes());
    let call = AdminCall { method: "PUT", path: &path, signature: None, body };
    let ban = AdminClient::new(admin)?.deploy(call).await?;
    match admin.json {
        true => print_line!("{ban}")?,
        false => print_line!("{} is banned until {}", shown(&ban["name"]), end(&ban))?,
    }
    Ok(())
}

async fn unban(admin: &AdminArgs, of: &str, name: &str) -> anyhow::Result<()> {
    AdminClient::new(admin)?.call("DELETE", &path(of, name)).await?;
    match admin.json {
        true => print_line!("{}", json!({"name": name, "state": "lifted"}))?,
        false => print_line!("{name} is not banned any more")?,
    }
    Ok(())
}

async fn list(admin: &AdminArgs, kind: &str) -> anyhow::Result<()> {
    let (client, mut after, mut bans) = (AdminClient::new(admin)?, String::new(), vec![]);
    loop {
        let page = client.call("GET", &format!("/v1/bans?limit=1000&after={}", escape(&after))).await?;
        let all = page["bans"].as_array().into_iter().flatten();
        bans.extend(all.filter(|ban| ban["kind"] == kind).cloned());
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    if admin.json {
        print_line!("{}", Value::from(bans))?;
        return Ok(());
    }
    for ban in bans {
        print_line!("{}  until {}", shown(&ban["name"]), end(&ban))?;
    }
    Ok(())
}

fn path(of: &str, name: &str) -> String {
    format!("/v1/{of}/{}/ban", escape(name))
}

/// A text as a part of a path or a query.
fn escape(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped = text.bytes().map(|byte| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

pub(crate) fn shown(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// When a ban or revocation ends.
pub(crate) fn end(ban: &Value) -> String {
    Expiry(ban["until"].as_u64().unwrap_or(0)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_part_of_the_path() {
        assert_eq!(path("principals", "acme-1._~"), "/v1/principals/acme-1._~/ban");
        assert_eq!(path("addresses", "2001:db8::/64"), "/v1/addresses/2001%3Adb8%3A%3A%2F64/ban");
        assert_eq!(escape("a?b&ä"), "a%3Fb%26%C3%A4");
    }
}
