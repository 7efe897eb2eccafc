//! The tables in the documentation match the code.

use super::{blocks, document};
use serde_json::json;
use std::{collections::BTreeSet, path::Path};
use switchyard_protocol::{Close, ErrorCode};
use switchyard_server::config::Config;
use switchyard_tests::{Client, Node, Redis, Server, eventually, guest, run};

/// The first cells of the tables under a heading, up to the next heading, without backticks.
fn first_cells(text: &str, heading: &str) -> BTreeSet<String> {
    let from = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no '{heading}'"));
    let section = &text[from + heading.len() + 2..];
    let section = section.split("\n## ").next().expect("a first part");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let cells = cells.filter(|cell| cell.starts_with('`')).flat_map(|cell| cell.split(", "));
    cells.map(|cell| cell.trim_matches('`').to_owned()).collect()
}

fn set<T: ToString>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

#[test]
fn every_error_code_is_explained() {
    let text = document("docs/protocol.md");
    assert_eq!(first_cells(&text, "## Errors"), set(ErrorCode::ALL.iter().map(|code| code.as_str())));
}

/// Must list every variant: the `match` in here does not compile if one is missing.
fn closes() -> Vec<Close> {
    use Close::*;
    let all = vec![
        BadFrames,
        Unauthorized,
        Forbidden,
        TakenOver,
        Revoked,
        RateIgnored,
        ConnectionLimit,
        Internal,
        Overloaded,
        ConnectTimeout,
        HeartbeatTimeout,
        Slow,
        Draining(0),
        ProtocolError,
        NotUtf8,
        FrameTooLarge,
    ];
    for close in &all {
        match close {
            BadFrames | Unauthorized | Forbidden | TakenOver | Revoked | ConnectionLimit | Internal => {}
            RateIgnored | Overloaded | ConnectTimeout | HeartbeatTimeout | Slow | Draining(_)
            | ProtocolError | NotUtf8 | FrameTooLarge => {}
        }
    }
    all
}

#[test]
fn every_close_code_is_explained_and_no_other() {
    let text = document("docs/protocol.md");
    let codes = set(closes().into_iter().map(Close::code));
    assert_eq!(first_cells(&text, "## Close codes"), codes);
    for name in super::DOCUMENTS {
        let text = document(name);
        let numbers = text.split(|c: char| !c.is_ascii_alphanumeric());
        let named = numbers.filter(|n| n.len() == 4 && ["44", "45", "46", "10"].contains(&&n[..2]));
        for number in named.filter(|n| n.parse().is_ok_and(|n: u16| n > 1001 && n != 1024)) {
            assert!(codes.contains(number), "{name} names the close code {number}");
        }
    }
}

/// The keys that a section may have, as its error lists them.
fn keys_of(section: &str, given: &str) -> Vec<String> {
    let text = format!("{section}\n{given}\nnonsense = 1\n");
    let error = load(&text).expect_err("a key that is not known");
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{section}: {error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("switchyard.toml");
    std::fs::write(&file, text).expect("a file in it");
    Config::load(Some(Path::new(&file)), &vec![]).map_err(|error| error.to_string())
}

#[test]
fn every_configuration_key_is_explained() {
    let explained = first_cells(&document("docs/operator.md"), "## Configuration");
    let sections = [
        ("[server]", "server"),
        ("[server.tls]", "server.tls"),
        ("[admin]", "admin"),
        ("[audit]", "audit"),
        ("[store]", "store"),
        ("[rooms]", "rooms"),
        ("[rooms.history]", "rooms.history"),
        ("[[room]]", "room"),
        ("[room.history]", "room.history"),
        ("[session]", "session"),
        ("[session.heartbeat]", "session.heartbeat"),
        ("[limits]", "limits"),
        ("[limits.address]", "limits.address"),
        ("[memory]", "memory"),
        ("[[key]]", "key"),
        ("[[issuer]]", "issuer"),
        ("[issuer.claims]", "issuer.claims"),
        ("[tier.NAME]", "tier.NAME"),
        ("[[plugin]]", "plugin"),
        ("[plugin.budget]", "plugin.budget"),
        ("[signatures]", "signatures"),
        ("[cache]", "cache"),
    ];
    let mut known = BTreeSet::new();
    for (section, prefix) in sections {
        let section = section.replace("[plugin.budget]", "[[plugin]]\n[plugin.budget]");
        let section = section.replace("[issuer.claims]", "[[issuer]]\n[issuer.claims]");
        let section = section.replace("[room.history]", "[[room]]\nmatch = \"a\"\n[room.history]");
        known.extend(keys_of(&section, "").into_iter().map(|key| format!("{prefix}.{key}")));
    }
    // Tables are explained by their keys.
    for (_, prefix) in sections {
        known.remove(prefix);
    }
    assert_eq!(explained, known);
}

#[test]
fn the_example_configuration_is_valid_and_shows_the_defaults() {
    let examples = blocks(&document("docs/operator.md"), "toml");
    for example in &examples {
        load(example).unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    let mut whole = load(examples.first().expect("an example")).expect("good");
    let default = Config::default();
    assert!(whole.server.tls.take().is_some() && whole.server.origins.take().is_some());
    assert_eq!((whole.server, whole.admin, whole.store), (default.server, default.admin, default.store));
    assert_eq!((whole.rooms, whole.session, whole.limits), (default.rooms, default.session, default.limits));
    assert_eq!(whole.memory, default.memory);
    assert_eq!(whole.plugins[0].budget, Default::default());
}

#[tokio::test]
async fn every_metric_is_explained() {
    let file = guest("orderbook").display().to_string();
    let plugin = format!("[[plugin]]\nname = \"p\"\nfile = \"{file}\"\nrooms = [\"books\"]");
    let redis = Redis::start().await;
    let server = Server::start(&format!("[store]\nurl = \"{}\"\n{plugin}", redis.url())).await;
    // A family with labels appears only after it has counted something.
    let mut client = Client::connect(&server).await;
    client.refused(json!({"type": "shout"})).await;
    // Redis returns an error for a room with the wrong type.
    redis.command(&["SET", "switchyard:{odd}:room", "1"]).await;
    client.refused(json!({"type": "publish", "room": "odd", "data": 1})).await;
    client.send(json!({"type": "subscribe", "rooms": ["books"]})).await;
    let mut stranger = Client::open(&*server.url).await;
    stranger.send(json!({"type": "ping"})).await;
    stranger.closed().await;
    let (_, text) = server.call("GET", "/metrics", None, "").await;
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let series = families.map(|(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        _ => name.to_owned(),
    });
    let mut counted = set(series);
    // Metrics of plugins, which may have any name.
    counted.retain(|name| !name.starts_with("switchyard_guest_"));
    assert_eq!(first_cells(&document("docs/operator.md"), "## Metrics"), counted);
}

/// The form of a key as the table has it, with a placeholder for each name.
fn form(key: &str) -> String {
    let Some((prefix, rest)) = key.split_once(":{") else { return key.to_owned() };
    let (tag, rest) = rest.split_once("}:").expect("a tag ends");
    let tag = match tag {
        "/nodes" | "/rooms" | "/keys" | "/denials" | "/plugins" => tag,
        tag if tag.starts_with("/node-") => "/node-NODE",
        tag if tag.starts_with("/plugin-") => "/plugin-PLUGIN",
        tag if tag.starts_with('@') && (rest == "connections" || rest.starts_with("session:")) => {
            "@PRINCIPAL"
        }
        _ => "ROOM",
    };
    let rest = match rest.split(':').next().expect("one part at least") {
        "once" => "once:PRINCIPAL:KEY",
        "session" => "session:DIGEST",
        "code" => "code:PLUGIN:SHA256",
        "upload" => "upload:PLUGIN:SHA256",
        _ => rest,
    };
    format!("{prefix}:{{{tag}}}:{rest}")
}

#[tokio::test]
async fn every_redis_key_is_explained_and_expires_as_documented() {
    let redis = Redis::start().await;
    let plugin = guest("orderbook").display().to_string();
    let plugin = format!("[[plugin]]\nname = \"dydx\"\nfile = \"{plugin}\"\nrooms = [\"trades\"]\n");
    let keeper = switchyard_tests::plugin("keeper", "[\"kept\"]", "{}") + "state = \"shared\"\n";
    let node = Node::start(&redis.url(), &(plugin + &keeper)).await;
    let (mut client, lost) = (node.client().await, node.client().await);
    client.subscribe(json!(["prices", "left"])).await;
    client.ask(json!({"type": "unsubscribe", "rooms": ["left"]})).await;
    lost.cut();
    client.ask(json!({"type": "publish", "room": "prices", "data": 1, "key": "k"})).await;
    for change in [json!({"set": "a", "value": "1", "ttlMs": 3_600_000}), json!({"delete": "b"})] {
        client.ask(json!({"type": "publish", "room": "kept", "data": change})).await;
    }
    let arguments = ["key", "add", "--principal", "a", "--scope", "publish", "--config", "switchyard.toml"];
    assert!(run(node.folder(), &arguments, &[]).await.status.success());
    assert_eq!(node.call("PUT", "/v1/principals/bob/ban", r#"{"for":"1h"}"#).await.0, 200);
    let text = document("docs/nodes.md");
    let mut explained = first_cells(&text, "## The keys of Redis");
    // Temporary keys, which may be absent.
    for passing in [
        "switchyard:{/nodes}:dead",
        "switchyard:{/node-NODE}:takeovers",
        "switchyard:{/rooms}:pruned",
        "switchyard:{/plugins}:upload:PLUGIN:SHA256",
    ] {
        assert!(explained.remove(passing), "{passing}");
    }
    let keys = eventually("every key", async || {
        let keys = redis.command(&["KEYS", "*"]).await;
        let forms = set(keys.lines().map(form));
        assert!(forms.is_subset(&explained), "{:?} are not explained", forms.difference(&explained));
        (forms == explained).then_some(keys)
    })
    .await;
    for key in keys.lines() {
        let form = form(key);
        let row = text.lines().find(|line| line.starts_with(&format!("| `{form}`"))).expect("its row");
        let lives = row.trim_end_matches(" |").rsplit(" | ").next().expect("how long it lives");
        let ends = redis.command(&["PTTL", key]).await.parse::<i64>().expect("a number") > 0;
        let lasts = lives.starts_with("for ever") || lives.starts_with("until");
        assert_ne!(ends, lasts, "{key} lives {lives}");
    }
}
