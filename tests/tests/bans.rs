//! Bans on one node: who is kept out, from which call on, and until when.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Client, KEY, READER, Raw, Server, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HOUR: &str = r#"{"for":"1h"}"#;

/// A node with keys of some more principals, which may publish.
async fn start(extra: &str) -> Server {
    Server::start_with(&format!("{}{}{extra}", Server::keys(), Server::more_keys())).await
}

/// Makes a call of an operator, which must succeed. Returns the answer.
async fn call(server: &Server, method: &str, path: &str, body: &str) -> Value {
    let (status, answer) = server.call(method, path, Some(KEY), body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    serde_json::from_str(&answer).unwrap_or_default()
}

async fn names(server: &Server) -> Vec<String> {
    let list = server.get("/v1/bans").await;
    let bans = list["bans"].as_array().unwrap();
    bans.iter()
        .map(|ban| format!("{} {}", ban["kind"].as_str().unwrap(), ban["name"].as_str().unwrap()))
        .collect()
}

/// The answer to an upgrade with this key.
async fn upgrade(server: &Server, key: &str) -> String {
    Raw::upgrade(server, &format!("Authorization: Bearer {key}\r\n")).await.0
}

fn connect_of(key: &str) -> Value {
    json!({"type": "connect", "auth": {"apiKey": key}})
}

/// Waits for the error and the end of a connection that is banned.
async fn is_thrown_out(client: &mut Client) {
    let error = client.expect("error").await;
    assert_eq!(error["error"]["code"], "forbidden", "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains(" is banned until 20"), "{error}");
    assert_eq!(client.closed().await.code, 4403);
}

#[tokio::test]
async fn a_banned_principal_is_out_until_the_ban_is_lifted() {
    let server = start("").await;
    let mut banned = [Client::connect_as(&server, "ann").await, Client::connect_as(&server, "ann").await];
    let mut stays = Client::connect_as(&server, "bob").await;
    banned[0].subscribe(json!(["prices"])).await;
    let began = Instant::now();
    let ban = call(&server, "PUT", "/v1/principals/ann/ban", HOUR).await;
    let (since, until) = (ban["since"].as_u64().unwrap(), ban["until"].as_u64().unwrap());
    assert_eq!((until - since, &ban["kind"], &ban["name"]), (3_600_000, &json!("principal"), &json!("ann")));
    for client in &mut banned {
        is_thrown_out(client).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    stays.round_trip().await;
    let connect = connect_of("ann");
    assert_eq!(Client::rejected_connect(&server.url, connect).await, ("forbidden".into(), 4403));
    let mut resume = connect_of("ann");
    resume["session"] = json!(banned[0].token());
    assert_eq!(Client::rejected_connect(&server.url, resume).await, ("forbidden".into(), 4403));
    assert!(upgrade(&server, "ann").await.starts_with("http/1.1 403 "));
    let message = r#"{"room":"prices","data":1}"#;
    let published = server.refused("POST", "/v1/publish", Some("ann"), message).await;
    assert_eq!(published, (403, "forbidden".into()));
    assert_eq!(names(&server).await, ["principal ann"]);

    call(&server, "DELETE", "/v1/principals/ann/ban", "").await;
    assert!(names(&server).await.is_empty());
    // The session was not ended.
    let resume = json!({"auth": {"apiKey": "ann"}, "session": banned[0].token()});
    assert_eq!(Client::connect_with(&server, resume).await.connected["resumed"], true);
    assert!(upgrade(&server, "ann").await.starts_with("http/1.1 101 "));
    assert_eq!(server.call("POST", "/v1/publish", Some("ann"), message).await.0, 200);
    let again = server.refused("DELETE", "/v1/principals/ann/ban", Some(KEY), "").await;
    assert_eq!(again, (404, "not_found".into()));
}

/// Calls that began before the ban.
#[tokio::test]
async fn a_request_that_takes_long_is_judged_by_the_bans_as_they_are_then() {
    let server = start(&Server::key("sk_ops", "ops", r#"["admin"]"#, "")).await;
    let list = r#"[{"room":"trades","data":1},{"room":"prices","data":2}]"#;
    for (key, principal, call, body) in
        [("ann", "ann", "POST /v1/publish", list), ("sk_ops", "ops", "PUT /v1/principals/bob/ban", HOUR)]
    {
        let answer = answer_after_ban(&server, key, principal, call, body).await;
        assert!(answer.contains(&format!("principal '{principal}' is banned until")), "{answer}");
    }
    assert_eq!(server.refused("GET", "/v1/rooms/trades", Some(KEY), "").await, (404, "not_found".into()));
    assert_eq!(names(&server).await, ["principal ann", "principal ops"], "bob is not banned");
}

/// The answer to a call whose principal is banned after it began, and before its body was sent.
async fn answer_after_ban(
    server: &Server,
    key: &str,
    principal: &str,
    call_line: &str,
    body: &str,
) -> String {
    let address = server.admin.strip_prefix("http://").expect("plain HTTP");
    let mut socket = TcpStream::connect(address).await.expect("the admin listener");
    let head = format!(
        "{call_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    // Sent when the body is awaited, after the key was accepted.
    let mut begun = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    socket.read_exact(&mut begun).await.expect("a beginning");
    assert!(begun.starts_with(b"HTTP/1.1 100"), "{begun:?}");
    call(server, "PUT", &format!("/v1/principals/{principal}/ban"), HOUR).await;
    socket.write_all(body.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn a_ban_ends_by_itself() {
    let server = start("").await;
    let began = Instant::now();
    call(&server, "PUT", "/v1/principals/ann/ban", r#"{"for":"2s"}"#).await;
    assert!(!Client::is_accepted(&server.url, "ann").await);
    eventually("the end", async || Client::is_accepted(&server.url, "ann").await.then_some(())).await;
    let elapsed = began.elapsed();
    assert!(elapsed > Duration::from_millis(1900) && elapsed < Duration::from_secs(4), "{elapsed:?}");
    assert!(names(&server).await.is_empty());
}

#[tokio::test]
async fn a_banned_address_is_refused_before_its_key_is_read() {
    let server = start("").await;
    let mut client = Client::connect(&server).await;
    // Another way to write it.
    let ban = call(&server, "PUT", "/v1/addresses/::ffff:127.0.0.1/ban", HOUR).await;
    assert_eq!((&ban["kind"], &ban["name"]), (&json!("address"), &json!("127.0.0.1")));
    is_thrown_out(&mut client).await;
    for key in [KEY, "wrong"] {
        let answer = upgrade(&server, key).await;
        assert!(answer.starts_with("http/1.1 403 "), "{key}: {answer}");
    }
    // Operators are not locked out.
    assert_eq!(names(&server).await, ["address 127.0.0.1"]);
    call(&server, "DELETE", "/v1/addresses/127.0.0.1/ban", "").await;
    assert!(Client::is_accepted(&server.url, KEY).await);
}

#[tokio::test]
async fn a_connection_is_ended_and_its_principal_banned_in_one_call() {
    let server = start("").await;
    let mut client = Client::connect_as(&server, "ann").await;
    let id = client.connected["connection"].as_str().unwrap().to_owned();
    let path = format!("/v1/connections/{id}?ban=10m");
    assert_eq!(server.call("DELETE", &path, Some(KEY), "").await.0, 204);
    is_thrown_out(&mut client).await;
    assert_eq!(names(&server).await, ["principal ann"]);
    call(&server, "DELETE", "/v1/principals/ann/ban", "").await;
    // Unlike by a ban alone, the session was ended.
    let resume = json!({"auth": {"apiKey": "ann"}, "session": client.token()});
    assert_eq!(Client::connect_with(&server, resume).await.connected["resumed"], false);
}

#[tokio::test]
async fn impossible_bans_are_refused() {
    let server = start("[limits]\ntrusted = [\"10.0.0.0/8\", \"2001:db8::7\"]").await;
    let clients = [Client::connect(&server).await, Client::connect_as(&server, "bob").await];
    let [own, bob] = clients.each_ref().map(|client| client.connected["connection"].as_str().unwrap());
    for (method, path, body, status, text) in [
        ("PUT", "/v1/principals/acme/ban", HOUR, 409, "'acme' is the principal of your own key"),
        ("PUT", "/v1/principals/a%20b/ban", HOUR, 400, "invalid principal 'a b'"),
        (
            "PUT",
            "/v1/principals/ann/ban",
            r#"{"for":"0s"}"#,
            400,
            "for must be between 1s and 1year, got '0s'",
        ),
        ("PUT", "/v1/principals/ann/ban", r#"{"for":"2years"}"#, 400, "for must be between 1s and 1year"),
        ("PUT", "/v1/principals/ann/ban", r#"{"for":"soon"}"#, 400, "for: invalid duration 'soon'"),
        ("PUT", "/v1/principals/ann/ban", r#"{"for":60}"#, 400, "the body is not a JSON object such as"),
        ("PUT", "/v1/principals/ann/ban", r#"{"for":"1h","why":"x"}"#, 400, "unknown field `why`"),
        ("PUT", "/v1/principals/ann/ban", "", 400, r#"such as {"for":"1h"}"#),
        ("PUT", "/v1/addresses/192.0.2/ban", HOUR, 400, "invalid address '192.0.2'; expected an IPv4"),
        ("PUT", "/v1/addresses/192.0.2.0%2F24/ban", HOUR, 400, "invalid address '192.0.2.0/24'"),
        ("PUT", "/v1/addresses/2001:db8::%2F48/ban", HOUR, 400, "invalid address '2001:db8::/48'"),
        ("PUT", "/v1/addresses/10.1.2.3/ban", HOUR, 409, "10.1.2.3 belongs to a proxy in limits.trusted"),
        ("PUT", "/v1/addresses/2001:db8::9/ban", HOUR, 409, "2001:db8::/64 belongs to a proxy"),
        ("DELETE", "/v1/addresses/192.0.2.1/ban", "", 404, "address '192.0.2.1' is not banned"),
        ("DELETE", &format!("/v1/connections/{own}?ban=1h"), "", 409, "the principal of your own key"),
        ("DELETE", &format!("/v1/connections/{bob}?ban=0s"), "", 400, "ban must be between 1s and 1year"),
        ("POST", "/v1/tokens/revoke", "{}", 400, "expected either principal or id, and not both"),
        ("POST", "/v1/tokens/revoke", r#"{"id":"a","principal":"b"}"#, 400, "expected either"),
        ("POST", "/v1/tokens/revoke", r#"{"id":""}"#, 400, "invalid id of a token"),
        ("POST", "/v1/tokens/revoke", r#"{"id":"a","for":"367days"}"#, 400, "for must be between 1s"),
        ("GET", "/v1/bans?after=nonsense", "", 400, "after must be the `next` of a page"),
    ] {
        let (found, answer) = server.call(method, path, Some(KEY), body).await;
        let error: Value = serde_json::from_str(&answer).unwrap_or_default();
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(found == status && message.contains(text), "{method} {path} {body}: {found} {answer}");
        let (found, answer) = server.call(method, path, Some(READER), body).await;
        assert_eq!(found, 403, "{method} {path}: {answer}");
    }
    assert!(names(&server).await.is_empty());
    assert_eq!(server.get("/v1/connections").await["connections"].as_array().unwrap().len(), 2, "both stay");
}

#[tokio::test]
async fn bans_and_revocations_are_listed_in_pages() {
    let server = start("").await;
    for (path, body) in [
        ("/v1/tokens/revoke", r#"{"principal":"ann"}"#),
        ("/v1/tokens/revoke", r#"{"id":"t 1","for":"48h"}"#),
    ] {
        call(&server, "POST", path, body).await;
    }
    for path in ["/v1/principals/bob/ban", "/v1/principals/ann/ban", "/v1/addresses/2001:db8::1/ban"] {
        call(&server, "PUT", path, HOUR).await;
    }
    let expected = ["principal ann", "principal bob", "address 2001:db8::/64", "token t 1", "tokens ann"]
        .map(str::to_owned);
    assert_eq!(names(&server).await, expected);
    let first = server.get("/v1/bans?limit=4").await;
    assert_eq!(first["next"], "token t 1");
    let second = server.get("/v1/bans?limit=4&after=token%20t%201").await;
    assert_eq!((&second["bans"][0]["kind"], second["bans"].as_array().unwrap().len()), (&json!("tokens"), 1));
    let revoked = &second["bans"][0];
    let kept = revoked["until"].as_u64().unwrap() - revoked["since"].as_u64().unwrap();
    assert_eq!(kept, 24 * 3_600_000, "this node accepts no tokens, so this is as good as any");
    // A shorter revocation does not shorten the one before.
    let again = call(&server, "POST", "/v1/tokens/revoke", r#"{"principal":"ann","for":"1h"}"#).await;
    assert_eq!(again["until"], revoked["until"]);
    assert!(again["since"].as_u64() >= revoked["since"].as_u64());
}
