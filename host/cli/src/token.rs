//! `switchyard token`: asks a node what it makes of a user token, and revokes tokens on all nodes. The nodes do it; this
//! calls one of them.

use crate::{
    admin_client::{AdminArgs, AdminCall, AdminClient},
    ban::{end, shown},
    output::print_line,
};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::io::Read;

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Say what a node makes of a token: whose it is, what it permits, or what is wrong with it
    Check(CheckArgs),
    /// Revoke one token, or those that were issued to a principal so far; every node refuses them within a second
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The token, or - to read it from standard input: other users of the machine can see arguments
    #[arg(value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    which: RevokedTokens,
    /// For how long they are remembered as revoked, at least as long as any token may be accepted [default: that long]
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct RevokedTokens {
    /// All tokens of this principal that were issued before now
    #[arg(long)]
    principal: Option<String>,
    /// The token with this id, which is its claim `jti`
    #[arg(long, value_name = "JTI")]
    id: Option<String>,
}

pub(crate) async fn run(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Check(args) => check(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

async fn check(args: CheckArgs) -> anyhow::Result<()> {
    let CheckArgs { mut token, admin } = args;
    if token == "-" {
        token.clear();
        std::io::stdin().take(64 << 10).read_to_string(&mut token).context("cannot read the token")?;
    }
    let body = json!({"token": token.trim()}).to_string().into_bytes();
    let call = AdminCall { method: "POST", path: "/v1/tokens/check", signature: None, body };
    let checked = AdminClient::new(&admin)?.deploy(call).await?;
    if admin.json {
        print_line!("{checked}")?;
    }
    if checked["valid"] != true {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        bail!("{} ({})", text(&checked["error"]["message"]), text(&checked["error"]["code"]));
    }
    if !admin.json {
        for line in describe(&checked) {
            print_line!("{line}")?;
        }
    }
    Ok(())
}

/// A line for each thing that a valid token says.
fn describe(checked: &Value) -> Vec<String> {
    let text = |name: &str| checked[name].as_str().unwrap_or("-").to_owned();
    let list = |value: &Value| {
        let items = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![
        format!("issuer     {}", text("issuer")),
        format!("principal  {}", text("principal")),
        format!("tier       {}", text("tier")),
        format!("scopes     {}", list(&checked["scopes"])),
    ];
    for grants in checked["rooms"].as_array().into_iter().flatten() {
        let grant =
            |grant: &Value| format!("{}={}", grant["match"].as_str().unwrap_or("-"), list(&grant["allow"]));
        let grants: Vec<_> = grants.as_array().into_iter().flatten().map(grant).collect();
        lines.push(format!("rooms      {}", grants.join("  ")));
    }
    for (name, value) in checked["tags"].as_object().into_iter().flatten() {
        lines.push(format!("tag        {name}={}", value.as_str().unwrap_or("-")));
    }
    if let Some(id) = checked["id"].as_str() {
        lines.push(format!("id         {id}"));
    }
    let expires = checked["expires"].as_u64().unwrap_or_default();
    lines.push(format!("expires    {}", switchyard_store::key::Expiry(expires)));
    lines
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<()> {
    let RevokeArgs { which: RevokedTokens { principal, id }, duration, admin } = args;
    let fields = [("principal", principal), ("id", id), ("for", duration)];
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    let body = Value::from(Map::from_iter(given)).to_string().into_bytes();
    let call = AdminCall { method: "POST", path: "/v1/tokens/revoke", signature: None, body };
    let revoked = AdminClient::new(&admin)?.deploy(call).await?;
    if admin.json {
        print_line!("{revoked}")?;
        return Ok(());
    }
    let (name, end) = (shown(&revoked["name"]), end(&revoked));
    match shown(&revoked["kind"]) {
        "tokens" => print_line!("the tokens that were issued to {name} so far are revoked until {end}")?,
        _ => print_line!("token {name} is revoked until {end}")?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_token_is_described_line_by_line() {
        let checked = json!({
            "valid": true, "issuer": "app", "principal": "ann", "tier": "pro", "scopes": ["subscribe", "publish"],
            "rooms": [[{"match": "dydx:*", "allow": ["subscribe"]}]], "tags": {"team": "dydx"}, "expires": 1_798_761_600_000u64,
        });
        assert_eq!(
            describe(&checked).join("\n"),
            "issuer     app\nprincipal  ann\ntier       pro\nscopes     subscribe, publish\nrooms      dydx:*=subscribe\ntag        team=dydx\nexpires    2027-01-01T00:00:00Z"
        );
    }
}
