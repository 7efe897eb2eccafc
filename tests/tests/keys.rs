//! Keys while connections are open: they expire, are revoked, change and appear. Certificates are reloaded.

mod deadlines;
mod expiry;
mod grants;
mod invalid_files;
pub mod tls;
mod tokens;
mod unreadable_files;

use serde_json::json;
use std::time::{Duration, Instant, SystemTime};
use switchyard_tests::{Client, KEY, READER, Server, eventually};

const SOME: &str = r#"["subscribe", "publish"]"#;

async fn becomes(server: &Server, key: &str, good: bool) {
    let what = format!("{key} being {}", if good { "good" } else { "bad" });
    eventually(&what, async || (Client::is_accepted(&server.url, key).await == good).then_some(())).await;
}

#[tokio::test]
async fn a_revoked_key_closes_its_connections_within_about_a_second() {
    let other = Server::key("sk_other", "acme", SOME, "");
    let server =
        Server::start_with(&(Server::keys() + &Server::key("sk_bad", "acme", SOME, "") + &other)).await;
    let mut revoked =
        [Client::connect_as(&server, "sk_bad").await, Client::connect_as(&server, "sk_bad").await];
    let mut stays = Client::connect(&server).await;
    let started = Instant::now();
    server.reconfigure(&(Server::keys() + &other));
    for client in &mut revoked {
        let closed = client.closed().await;
        assert_eq!(closed.code, 4410, "{closed:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    stays.round_trip().await;
    let connect = json!({"type": "connect", "auth": {"apiKey": "sk_bad"}});
    assert_eq!(Client::rejected_connect(&server.url, connect).await, ("invalid_key".into(), 4401));
    // The session belongs to the principal, so another of its keys can resume it.
    let resume = json!({"auth": {"apiKey": "sk_other"}, "session": revoked[0].token()});
    assert_eq!(Client::connect_with(&server, resume).await.connected["resumed"], true);
}

#[tokio::test]
async fn a_key_that_expires_closes_its_connections() {
    let at = SystemTime::now() + Duration::from_millis(1500);
    let expires = format!("expires = {}", humantime::format_rfc3339_millis(at));
    let server =
        Server::start_with(&(Server::keys() + &Server::key("sk_short", "short", SOME, &expires))).await;
    let mut client = Client::connect_as(&server, "sk_short").await;
    let mut stays = Client::connect(&server).await;
    let error = client.expect("error").await;
    assert_eq!(error["error"]["code"], "expired_key");
    let early = at.duration_since(SystemTime::now());
    assert!(early.is_err(), "closed {early:?} too early");
    assert_eq!(client.closed().await.code, 4401);
    assert!(at.elapsed().expect("it is past") < Duration::from_secs(2));
    let connect = json!({"type": "connect", "auth": {"apiKey": "sk_short"}});
    assert_eq!(Client::rejected_connect(&server.url, connect).await, ("expired_key".into(), 4401));
    stays.round_trip().await;
}

#[tokio::test]
async fn keys_appear_and_change_without_a_restart() {
    let server = Server::start("").await;
    let mut client = Client::connect_as(&server, READER).await;
    assert_eq!(client.refused(json!({"type": "publish", "room": "a", "data": 1})).await, "forbidden");
    let keys = Server::key(KEY, "acme", r#"["subscribe", "admin"]"#, "")
        + &Server::key(READER, "zed", SOME, "")
        + &Server::key("sk_new", "new", SOME, "tier = \"one\"")
        + "[tier.one]\nrooms = 1\nconnections = 100\n";
    server.reconfigure(&keys);
    becomes(&server, "sk_new", true).await;
    // The scopes of open connections changed too.
    client.publish("a", json!(1)).await;
    let new = Client::connect_as(&server, "sk_new").await;
    assert_eq!(new.connected["principal"], json!({"id": "new", "tier": "one"}));
    assert_eq!(new.connected["limits"]["rooms"], 1);
    // And those for HTTP.
    let refused = server.refused("POST", "/v1/publish", Some(KEY), r#"{"room":"a","data":1}"#).await;
    assert_eq!(refused, (403, "forbidden".into()));
    // Written in place instead of replaced, as some editors do.
    std::fs::write(&server.file, keys.clone() + &Server::key("sk_newer", "newer", SOME, "")).expect("a file");
    becomes(&server, "sk_newer", true).await;
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_the_next_valid_one_applies() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    let new = Server::key("sk_new", "new", SOME, "");
    for wrong in [
        format!("{new}\n[server]\nlsten = 1"),
        Server::key("sk_new", "new", SOME, "tier = \"unknown\""),
        format!("{new}\n[["),
    ] {
        server.reconfigure(&wrong);
        // Nothing reports that a file was rejected. By now the node has read it many times.
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!Client::is_accepted(&server.url, "sk_new").await, "{wrong}");
        client.round_trip().await;
        assert!(Client::is_accepted(&server.url, READER).await);
    }
    std::fs::remove_file(&server.file).expect("a file");
    tokio::time::sleep(Duration::from_millis(700)).await;
    client.round_trip().await;
    server.reconfigure(&(Server::keys() + &new));
    becomes(&server, "sk_new", true).await;
    client.round_trip().await;
}

#[tokio::test]
async fn scopes_protect_the_admin_listener() {
    let scopes = ["subscribe", "publish", "broadcast", "admin"];
    let keys: String = scopes
        .iter()
        .map(|scope| Server::key(&format!("sk_{scope}"), scope, &format!("[\"{scope}\"]"), ""))
        .collect();
    let server = Server::start_with(&keys).await;
    Client::connect_as(&server, "sk_subscribe").await.subscribe(json!(["a"])).await;
    let publish = r#"{"room":"a","data":1}"#;
    server.call("POST", "/v1/publish", Some("sk_publish"), publish).await;
    for (method, path, body, needed) in [
        ("POST", "/v1/publish", publish, "publish"),
        ("POST", "/v1/broadcast", r#"{"data":1}"#, "broadcast"),
        ("GET", "/v1/rooms", "", "admin"),
        ("GET", "/v1/rooms/a", "", "admin"),
        ("GET", "/v1/rooms/a/history", "", "admin"),
        ("GET", "/v1/rooms/a/messages/1/receipt", "", "publish"),
        ("GET", "/v1/connections", "", "admin"),
        ("GET", "/v1/connections/c_0000000000000000", "", "admin"),
        ("DELETE", "/v1/connections/c_0000000000000000", "", "admin"),
        ("GET", "/v1/plugins", "", "admin"),
        ("PUT", "/v1/plugins/x", "", "admin"),
        ("POST", "/v1/plugins/x/rollback", "", "admin"),
    ] {
        for scope in scopes {
            let key = format!("sk_{scope}");
            if scope == needed {
                let (status, body) = server.call(method, path, Some(&key), body).await;
                assert!(![401, 403, 405].contains(&status), "{method} {path} with {scope}: {status} {body}");
            } else {
                let refused = server.refused(method, path, Some(&key), body).await;
                assert_eq!(refused, (403, "forbidden".into()), "{method} {path} with {scope}");
            }
        }
        assert_eq!(
            server.refused(method, path, None, body).await,
            (401, "auth_required".into()),
            "{method} {path}"
        );
        let unknown = server.refused(method, path, Some("sk_unknown"), body).await;
        assert_eq!(unknown, (401, "invalid_key".into()), "{method} {path}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(server.call("GET", path, None, "").await.0, 200, "{path} needs no key");
    }
}

/// A key that loses a scope loses what it allowed: joined rooms at once, and those of a session when it is
/// resumed.
#[tokio::test]
async fn a_key_that_may_no_longer_subscribe_receives_nothing_from_its_rooms() {
    let of = |scopes: &str| Server::keys() + &Server::key("sk_less", "less", scopes, "id = \"less\"");
    let server = Server::start_with(&of(SOME)).await;
    let mut client = Client::connect_as(&server, "sk_less").await;
    client.subscribe(json!(["prices"])).await;
    let outside = Client::connect_as(&server, "sk_less").await;
    let mut gone = Client::connect_as(&server, "sk_less").await;
    gone.subscribe(json!(["prices"])).await;
    let token = gone.token();
    gone.cut();
    server.reconfigure(&of(r#"["publish"]"#));
    let removed = client.expect("unsubscribed").await;
    let result = &removed["results"][0];
    assert_eq!((&result["room"], &result["status"]), (&json!("prices"), &json!("removed")), "{removed}");
    let expected = "key 'less' may not subscribe to 'prices': it lacks the scope 'subscribe'";
    assert_eq!(result["error"]["message"], expected, "{removed}");
    let resume = json!({"auth": {"apiKey": "sk_less"}, "session": token});
    let back = Client::connect_with(&server, resume).await;
    assert_eq!(back.connected["resumed"], true);
    let rooms = back.connected["rooms"].as_array().expect("rooms");
    let prices = rooms.iter().find(|room| room["room"] == "prices").expect("what became of it");
    assert_eq!(prices["error"]["code"], "forbidden", "{prices}");
    let mut publisher = Client::connect(&server).await;
    publisher.publish("prices", json!(1)).await;
    publisher.publish("*", json!(2)).await;
    for mut client in [client, back, outside] {
        let message = client.expect("message").await;
        assert_eq!(message["data"], 2, "what needs no scope is heard as ever, and nothing else");
        client.publish("prices", json!(3)).await;
    }
}
