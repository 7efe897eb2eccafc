//! A new key: what the command line says of it, and how it is printed. Generates and stores no keys.

use crate::output::{InvalidArguments, OutputError, print_line};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use std::{collections::BTreeMap, time::Duration};
use switchyard_process::unit::{InvalidDuration, parse_duration};
use switchyard_protocol::unix_ms;
use switchyard_store::{
    grant::{Grants, RoomGrant},
    key::{Digest, Expiry, InvalidKeyId, KeyConfig, KeyId, PrincipalName, Scope, Tags},
};

#[derive(Args)]
pub(crate) struct KeyArgs {
    /// The name of the user or service that gets the key: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(long, value_name = "NAME", value_parser = parse_principal)]
    principal: PrincipalName,
    /// What the key allows; several scopes are separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_parser = scope_parser())]
    scope: Vec<Scope>,
    /// What the key is called in logs, errors and /v1: 1 to 64 of A-Z a-z 0-9 . _ - [default: key- and 8 digits of its
    /// digest]
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<KeyId>,
    /// Rooms, and what the key may do there, such as 'dydx:*=subscribe,publish'; '@*' are the inboxes of others. Can be
    /// given several times [default: every room that has no '@', and publishing to the own inbox]
    #[arg(long, value_name = "ROOMS=VERBS")]
    allow: Vec<RoomGrant>,
    /// A tag that plugins are told, such as team=dydx. Can be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_tag)]
    tag: Vec<(String, String)>,
    /// The tier whose limits apply, as configured in [tier.NAME] [default: default]
    #[arg(long, value_name = "NAME", value_parser = parse_tier)]
    tier: Option<String>,
    /// How long the key is valid, such as 90d [default: forever]
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    expires: Option<Duration>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

fn scope_parser() -> impl TypedValueParser<Value = Scope> {
    PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)).map(|name| {
        let named = Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
        named.expect("clap allows only the names of scopes")
    })
}

impl KeyArgs {
    /// The tier, unless it is the one that keys without a tier have, which need not be configured.
    pub(super) fn tier(&self) -> Option<&String> {
        self.tier.as_ref().filter(|tier| *tier != switchyard_server::DEFAULT_TIER)
    }
}

/// The key as a configuration describes it.
pub(super) fn key_config(args: &KeyArgs, digest: Digest) -> Result<KeyConfig, InvalidArguments> {
    let grants = (!args.allow.is_empty()).then(|| Grants::try_from(args.allow.clone())).transpose();
    let mut tags = BTreeMap::new();
    for (name, value) in &args.tag {
        if tags.insert(name.clone(), value.clone()).is_some() {
            return Err(InvalidArguments(format!("--tag: '{name}' is given twice")));
        }
    }
    Ok(KeyConfig {
        id: args.id.clone(),
        tier: args.tier().cloned().map(|tier| toml::Spanned::new(0..0, tier)),
        rooms: grants.map_err(|error| InvalidArguments(format!("--allow: {error}")))?,
        tags: Tags::try_from(tags).map_err(|error| InvalidArguments(format!("--tag: {error}")))?,
        // In whole seconds, as a configuration writes it.
        expires: args.expires.map(|age| Expiry((unix_ms() + age.as_millis() as u64) / 1000 * 1000)),
        ..KeyConfig::new(digest, args.principal.clone(), args.scope.clone())
    })
}

fn parse_id(text: &str) -> Result<KeyId, InvalidKeyId> {
    KeyId::try_from(text.to_owned())
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as team=dydx")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_principal(text: &str) -> Result<PrincipalName, String> {
    PrincipalName::try_from(text.to_owned()).map_err(|_| "expected 1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
}

fn parse_tier(text: &str) -> Result<String, String> {
    match text {
        "" => Err("expected the name of a tier, as configured in [tier.NAME]".to_owned()),
        name => Ok(name.to_owned()),
    }
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(lifetime) if lifetime < Duration::from_secs(1) => {
            Err("expected at least 1s; a usual value is 90d".to_owned())
        }
        Ok(lifetime) => Ok(lifetime),
        Err(InvalidDuration::Syntax(_)) => Err("expected something like 90d, 12h or 2y".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A key as `--json` prints it, with the secret if the key is new.
pub(super) fn json(secret: Option<&str>, config: &KeyConfig) -> serde_json::Value {
    let mut json = serde_json::json!({
        "id": config.id(), "digest": config.digest.to_string(), "principal": config.principal.0,
        "scopes": config.scopes, "rooms": config.rooms, "tags": config.tags,
        "tier": config.tier.as_ref().map(|tier| tier.get_ref()),
        "expires": config.expires.map(|at| at.to_string()),
    });
    if let Some(secret) = secret {
        json["key"] = secret.into();
    }
    json
}

pub(super) fn print_new(args: &KeyArgs, key: &str, config: &KeyConfig) -> Result<(), OutputError> {
    if args.json {
        return print_line!("{}", json(Some(key), config));
    }
    print_line!("{key}")?;
    print_line!("")?;
    print_line!("Store it safely; it is shown only once. The configuration contains only its digest:")?;
    print_line!("")?;
    print_line!("[[key]]")?;
    if let Some(id) = &config.id {
        print_line!("id = \"{}\"", id.0)?;
    }
    print_line!("digest = \"{}\"", config.digest)?;
    print_line!("principal = \"{}\"", config.principal.0)?;
    if let Some(tier) = args.tier() {
        print_line!("tier = {}", toml::Value::from(tier.as_str()))?;
    }
    let scopes: Vec<_> = args.scope.iter().map(|scope| format!("\"{}\"", scope.as_str())).collect();
    print_line!("scopes = [{}]", scopes.join(", "))?;
    if let Some(grants) = &config.rooms {
        print_line!("rooms = [")?;
        for RoomGrant { rooms, allow } in grants.iter() {
            let verbs: Vec<_> = allow.iter().map(|verb| format!("\"{}\"", verb.as_str())).collect();
            print_line!("  {{ match = \"{rooms}\", allow = [{}] }},", verbs.join(", "))?;
        }
        print_line!("]")?;
    }
    if !config.tags.is_empty() {
        let tag =
            |(name, value): (&String, &String)| format!("\"{name}\" = {}", toml::Value::from(value.as_str()));
        let tags: Vec<_> = config.tags.iter().map(tag).collect();
        print_line!("tags = {{ {} }}", tags.join(", "))?;
    }
    if let Some(expires) = config.expires {
        print_line!("expires = {expires}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_when_they_are_parsed() {
        assert_eq!(&*parse_principal("acme").unwrap().0, "acme");
        assert_eq!(parse_principal("a b").unwrap_err(), "expected 1 to 64 of A-Z a-z 0-9 . _ -");
        assert_eq!(parse_tier("pro").unwrap(), "pro");
        assert!(parse_tier("").unwrap_err().contains("[tier.NAME]"));
        assert_eq!(parse_lifetime("90d").unwrap(), Duration::from_secs(90 * 24 * 3600));
        assert_eq!(parse_lifetime("tomorrow").unwrap_err(), "expected something like 90d, 12h or 2y");
        assert!(parse_lifetime("1ms").unwrap_err().contains("at least 1s"));
        assert!(parse_lifetime("10M").unwrap_err().contains("10months"));
    }
}
