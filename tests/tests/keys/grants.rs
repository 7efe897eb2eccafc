//! What keys may do in which rooms, on every way: WebSocket, HTTP, history, members, receipts, resuming, and while keys
//! change.

use super::{SOME, becomes};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use switchyard_tests::{Client, KEY, Live, Server, eventually, plugin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A key of the principal `team` with these entries of `rooms`, such as `dydx:*=subscribe,publish`.
fn team(scopes: &str, grants: Option<&str>) -> String {
    let entry = |grant: &str| {
        let (rooms, verbs) = grant.split_once('=').expect("ROOMS=VERBS");
        format!("{{ match = \"{rooms}\", allow = {:?} }}", verbs.split(',').collect::<Vec<_>>())
    };
    let rooms = grants.map(|grants| {
        let entries: Vec<_> = grants.split_whitespace().map(entry).collect();
        format!("rooms = [{}]", entries.join(", "))
    });
    Server::key("sk_team", "team", scopes, &format!("id = \"team-key\"\n{}", rooms.unwrap_or_default()))
}

async fn connect(server: &Server) -> Live {
    Live::connect_with(&server.url, json!({"auth": {"apiKey": "sk_team"}})).await
}

/// The code of the error, or `None` if there is none.
fn code(answer: &Value) -> Option<&str> {
    answer["error"]["code"].as_str()
}

/// Everything that a client can do in a room, over WebSocket and HTTP. `None` if it was allowed.
async fn tried(server: &Server, client: &Live, room: &str) -> Vec<(&'static str, Option<String>)> {
    let mut tried = vec![];
    let is_automatic = room == "*" || room == "@team";
    if !is_automatic {
        let joined = client.ask(json!({"type": "subscribe", "rooms": [room]})).await;
        let refused = code(&joined).or_else(|| code(&joined["results"][0]));
        tried.push(("subscribe", refused.map(str::to_owned)));
    }
    let publish = json!({"type": "publish", "room": room, "data": 1});
    let published = client.ask(publish).await;
    tried.push(("publish", code(&published).map(str::to_owned)));
    for (what, method, path, body) in [
        ("publish over HTTP", "POST", "/v1/publish".to_owned(), json!({"room": room, "data": 1}).to_string()),
        ("receipt", "GET", format!("/v1/rooms/{room}/messages/1/receipt"), String::new()),
    ] {
        let (_, answer) = server.call(method, &path, Some("sk_team"), body).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        tried.push((what, code(&answer).map(str::to_owned)));
    }
    // Who is not a member is told so, whatever the key allows.
    for what in ["history", "members"] {
        let answer = client.ask(json!({"type": what, "room": room})).await;
        tried.push((what, code(&answer).map(str::to_owned)));
    }
    tried
}

/// Every combination of scopes, grants and kinds of rooms, on all ways.
#[tokio::test]
async fn every_way_into_a_room_asks_the_key() {
    const ALL: &str = r#"["subscribe", "publish", "broadcast"]"#;
    // Which of reading and publishing are allowed in each room. A receipt is as publishing.
    for (scopes, grants, expected) in [
        (ALL, None, ["dydx:eth rp", "trades rp", "* rp", "@team rp", "@acme --"]),
        (ALL, Some(""), ["dydx:eth --", "trades --", "* rp", "@team r-", "@acme --"]),
        (ALL, Some("dydx:*=subscribe"), ["dydx:eth r-", "trades --", "* rp", "@team r-", "@acme --"]),
        (
            ALL,
            Some("dydx:*=publish @*=publish"),
            ["dydx:eth -p", "trades --", "* rp", "@team rp", "@acme -p"],
        ),
        (ALL, Some("**=subscribe,publish"), ["dydx:eth rp", "trades rp", "* rp", "@team r-", "@acme --"]),
        (r#"["subscribe"]"#, None, ["dydx:eth r-", "trades r-", "* r-", "@team r-", "@acme --"]),
        (r#"["publish"]"#, None, ["dydx:eth -p", "trades -p", "* --", "@team -p", "@acme --"]),
        (
            r#"["publish"]"#,
            Some("trades=publish,subscribe"),
            ["dydx:eth --", "trades -p", "* --", "@team --", "@acme --"],
        ),
    ] {
        let server = Server::start_with(&(Server::keys() + &team(scopes, grants))).await;
        let mut publisher = Client::connect(&server).await;
        for room in ["dydx:eth", "trades", "*", "@team"] {
            publisher.publish(room, json!(0)).await;
        }
        let _acme = Client::connect(&server).await;
        let client = connect(&server).await;
        for expected in expected {
            let (room, allowed) = expected.split_once(' ').expect("ROOM rp");
            let (reads, publishes) = (allowed.starts_with('r'), allowed.ends_with('p'));
            for (what, refused) in tried(&server, &client, room).await {
                let (is_allowed, otherwise) = match what {
                    "subscribe" => (reads && !room.starts_with('@'), "forbidden"),
                    "history" => {
                        (reads, if room == "*" || room == "@team" { "forbidden" } else { "not_subscribed" })
                    }
                    "members" if room == "*" => (false, "forbidden"),
                    "members" => (reads, if room == "@team" { "forbidden" } else { "not_subscribed" }),
                    "receipt" if room == "*" => (scopes.contains("publish"), "forbidden"),
                    "receipt" if room == "@acme" && publishes => (true, "forbidden"),
                    _ => (publishes, "forbidden"),
                };
                let expected = if is_allowed { None } else { Some(otherwise) };
                assert_eq!(refused.as_deref(), expected, "{scopes} {grants:?}: {what} in {room}");
            }
        }
        let (_, answer) = server.call("POST", "/v1/broadcast", Some("sk_team"), r#"{"data":1}"#).await;
        let is_broadcast = !answer.contains("forbidden");
        assert_eq!(is_broadcast, scopes.contains("broadcast"), "{scopes} {grants:?}: {answer}");
    }
}

#[tokio::test]
async fn an_error_names_the_key_the_room_and_what_was_to_be_done() {
    let server = Server::start_with(&(Server::keys() + &team(SOME, Some("dydx:*=subscribe")))).await;
    let client = connect(&server).await;
    let joined = client.ask(json!({"type": "subscribe", "rooms": ["trades", "dydx:eth"]})).await;
    let expected = "key 'team-key' may not subscribe to 'trades': no entry of its rooms allows it";
    assert_eq!(joined["results"][0]["error"]["message"], expected);
    assert_eq!(joined["results"][1]["status"], "subscribed", "each room is judged alone");
    let published = client.ask(json!({"type": "publish", "room": "dydx:eth", "data": 1})).await;
    let expected = "key 'team-key' may not publish to 'dydx:eth': no entry of its rooms allows it";
    assert_eq!(published["error"]["message"], expected);
    let listed = server.get("/v1/connections").await;
    assert_eq!(listed["connections"][0]["key"], "team-key");
}

/// The name that the plugin gives to a room counts, not the one that the client has written.
#[tokio::test]
async fn the_canonical_name_of_a_room_counts() {
    let protocols = plugin(
        "protocol_rooms",
        r#"["*:*"]"#,
        r#"{ protocols = ["uniswap-v3", "curve"], chains = ["ethereum"] }"#,
    );
    let key = team(SOME, Some("uniswap-v3:ethereum=subscribe,publish"));
    let server = Server::start_with(&(Server::keys() + &key + &protocols)).await;
    let client = connect(&server).await;
    let joined =
        client.ask(json!({"type": "subscribe", "rooms": ["Uniswap-V3:Ethereum", "CURVE:ethereum"]})).await;
    assert_eq!(joined["results"][0]["room"], "uniswap-v3:ethereum", "{joined}");
    assert_eq!(code(&joined["results"][1]), Some("forbidden"), "{joined}");
    assert!(
        joined["results"][1]["error"]["message"].as_str().unwrap().contains("'curve:ethereum'"),
        "{joined}"
    );
    for (room, refused) in [("UNISWAP-V3:ethereum", None), ("Curve:ethereum", Some("forbidden"))] {
        let published = client.ask(json!({"type": "publish", "room": room, "data": 1})).await;
        assert_eq!(code(&published), refused, "{published}");
    }
}

#[tokio::test]
async fn a_connection_leaves_what_its_key_does_not_allow_any_more_and_stays_in_the_rest() {
    let keys = |grants: Option<&str>| Server::keys() + &team(SOME, grants);
    let server = Server::start_with(&keys(None)).await;
    let client = connect(&server).await;
    client.subscribe(json!(["dydx:eth", "trades", "volume"])).await;
    server.reconfigure(&keys(Some("dydx:*=subscribe @*=publish")));
    let removed = client.wait_for_frame("its rooms", |frame| frame["type"] == "unsubscribed").await;
    let mut rooms: Vec<_> = removed["results"].as_array().expect("results").iter().collect();
    rooms.sort_by_key(|room| room["room"].to_string());
    let names: Vec<_> = rooms.iter().map(|room| room["room"].as_str().unwrap()).collect();
    assert_eq!(names, ["trades", "volume"], "{removed}");
    for room in rooms {
        assert_eq!((&room["status"], code(room)), (&json!("removed"), Some("forbidden")), "{removed}");
    }
    let mut publisher = Client::connect(&server).await;
    for room in ["trades", "volume", "dydx:eth"] {
        publisher.publish(room, json!(room)).await;
    }
    client.message("dydx:eth", 1).await;
    for what in ["history", "members"] {
        let answer = client.ask(json!({"type": what, "room": "trades"})).await;
        assert_eq!(code(&answer), Some("not_subscribed"), "{answer}");
    }
    assert_eq!((client.offsets("trades"), client.offsets("volume")), (vec![], vec![]));
    let published = client.ask(json!({"type": "publish", "room": "dydx:eth", "data": 1})).await;
    assert_eq!(code(&published), Some("forbidden"));
    // Its session has left them, too.
    let (token, connect) = (client.token(), json!({"auth": {"apiKey": "sk_team"}}));
    client.cut();
    let mut resume = connect;
    resume["session"] = token.into();
    let client = Live::connect_with(&server.url, resume).await;
    assert!(
        client.resumed("dydx:eth").is_some() && client.resumed("trades").is_none(),
        "{}",
        client.connected
    );
    // A key that allows more again does not bring rooms back by itself.
    server.reconfigure(&keys(None));
    let allowed = async || {
        let published = client.ask(json!({"type": "publish", "room": "trades", "data": "back"})).await;
        (published["type"] == "published").then_some(())
    };
    eventually("the wider key", allowed).await;
    client.subscribe(json!(["trades"])).await;
    publisher.publish("trades", json!("joined")).await;
    let heard =
        client.wait_for_frame("a message", |frame| frame["room"] == "trades" && frame["type"] == "message");
    assert_eq!(heard.await["data"], "joined", "nothing that was published before it joined again");
}

/// A client that sends without a pause, so that the node never has time for anything else of it, hears nothing more from
/// a room after a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_session_busy_leaves_its_rooms_too() {
    let keys = |grants: Option<&str>| Server::keys() + &team(SOME, grants);
    let server = Server::start_with(&keys(None)).await;
    let client = Arc::new(connect(&server).await);
    client.subscribe(json!(["trades"])).await;
    let (busy, is_over) = (client.clone(), Arc::new(AtomicBool::new(false)));
    let ended = is_over.clone();
    let flood = tokio::spawn(async move {
        let mut asked = 0;
        while !ended.load(Ordering::Relaxed) && busy.end().is_none() {
            for _ in 0..50 {
                busy.send(json!({"type": "subscribe", "id": 1_000_000 + asked, "rooms": ["dydx:eth"]}));
                asked += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    server.reconfigure(&keys(Some("dydx:*=subscribe")));
    let mut publisher = Client::connect(&server).await;
    // The key takes effect within a second after the file was read, for which there is a second, too.
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        publisher.publish("trades", json!("early")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let late = publisher.publish("trades", json!("late")).await["offset"].as_u64().expect("an offset");
    is_over.store(true, Ordering::Relaxed);
    flood.await.expect("it ends");
    if client.end().is_none() {
        client.round_trip().await;
    }
    assert!(!client.offsets("trades").contains(&late), "{:?}", client.end());
    let is_told = |frame: &Value| frame["type"] == "unsubscribed" && frame["results"][0]["room"] == "trades";
    assert!(client.end().is_some() || client.frames().iter().any(is_told));
}

/// A list that began to be sent with a wider key is judged by the narrower one.
#[tokio::test]
async fn a_request_that_takes_long_is_judged_by_the_key_as_it_is_then() {
    let keys = |grants: Option<&str>| Server::keys() + &team(SOME, grants);
    let server = Server::start_with(&keys(None)).await;
    let body = r#"[{"room":"trades","data":1},{"room":"dydx:eth","data":2}]"#;
    let address = server.admin.strip_prefix("http://").expect("plain HTTP");
    let mut socket = TcpStream::connect(address).await.expect("the admin listener");
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk_team\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{}",
        body.len(),
        &body[..10]
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    server.reconfigure(&(keys(Some("dydx:*=publish")) + &Server::key("sk_new", "new", SOME, "")));
    becomes(&server, "sk_new", true).await;
    socket.write_all(&body.as_bytes()[10..]).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let (_, list) = answer.split_once("\r\n\r\n").expect("a body");
    let list: Value = serde_json::from_str(list).expect("JSON");
    assert_eq!((code(&list[0]), &list[1]["offset"]), (Some("forbidden"), &json!(1)), "{answer}");
}

/// A session that is resumed with another key of its principal is in the rooms that this key allows.
#[tokio::test]
async fn a_session_resumed_with_a_narrower_key_leaves_what_that_does_not_allow() {
    let wide = Server::key("sk_wide", "team", SOME, "id = \"wide\"");
    let server = Server::start_with(&(Server::keys() + &wide + &team(SOME, Some("dydx:*=subscribe")))).await;
    let client = Live::connect_with(&server.url, json!({"auth": {"apiKey": "sk_wide"}})).await;
    client.subscribe(json!(["dydx:eth", "trades"])).await;
    let token = client.token();
    client.cut();
    let resume = json!({"auth": {"apiKey": "sk_team"}, "session": token});
    let client = Live::connect_with(&server.url, resume).await;
    assert_eq!(client.resumed("dydx:eth").expect("it stays")["recovered"], true);
    let lost = client.resumed("trades").expect("what became of it");
    assert_eq!(code(lost), Some("forbidden"), "{lost}");
}

/// Keys of other principals cannot fill an inbox, which nobody can leave.
#[tokio::test]
async fn an_inbox_takes_messages_of_its_principal_and_of_keys_that_may() {
    let keys = Server::keys() + &Server::key("sk_other", "other", SOME, "id = \"other\"") + &team(SOME, None);
    let server = Server::start_with(&keys).await;
    let team = connect(&server).await;
    let mut other = Client::connect_as(&server, "sk_other").await;
    let refused = other.ask(json!({"type": "publish", "room": "@team", "data": 1})).await;
    let expected = "key 'other' may not publish to '@team': it is the inbox of another principal, which only an entry of \
                    its rooms allows";
    assert_eq!(refused["error"]["message"], expected);
    let (status, _) =
        server.call("POST", "/v1/publish", Some("sk_other"), r#"{"room":"@team","data":1}"#).await;
    assert_eq!(status, 403);
    team.ask(json!({"type": "publish", "room": "@team", "data": "own"})).await;
    let (status, _) =
        server.call("POST", "/v1/publish", Some(KEY), r#"{"room":"@team","data":"operator"}"#).await;
    assert_eq!(status, 200, "its key allows @*");
    for (offset, data) in [(1, "own"), (2, "operator")] {
        assert_eq!(team.message("@team", offset).await["data"], data);
    }
}

#[tokio::test]
async fn a_key_that_another_principal_gets_is_revoked_for_the_first() {
    let keys = |principal: &str| Server::keys() + &Server::key("sk_moved", principal, SOME, "id = \"moved\"");
    let server = Server::start_with(&keys("one")).await;
    let mut client = Client::connect_as(&server, "sk_moved").await;
    server.reconfigure(&keys("two"));
    let error = client.expect("error").await;
    assert_eq!(error["error"]["message"], "key 'moved' belongs to another principal now");
    assert_eq!(client.closed().await.code, 4410);
}
