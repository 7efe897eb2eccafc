//! User tokens: what connects and what does not, how long a connection lasts, `refresh`, and an issuer whose keys rotate,
//! come late or not at all.

use serde_json::{Value, json};
use std::time::Duration;
use switchyard_protocol::unix_ms;
use switchyard_tests::{
    Certificate, Client, End, ISSUER, Issuer, KEY, KeyServer, Live, Server, key_set, user_token,
};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

fn auth(token: &str) -> Value {
    json!({"auth": {"token": token}})
}

async fn serve(issuer: &Issuer, more: &str) -> Server {
    let server = Server::start(&issuer.section(more)).await;
    issuer.fetched(1).await;
    server
}

/// The error with which a token is rejected, and the close code.
async fn rejected(server: &Server, token: &str) -> (Value, Option<u16>) {
    let mut client = Client::open(&server.url).await;
    client.send(json!({"type": "connect", "auth": {"token": token}})).await;
    let answer = client.recv().await;
    assert_eq!(answer["type"], "error", "{answer}");
    assert!(!answer.to_string().contains(token), "{answer}");
    (answer["error"].clone(), Some(client.closed().await.code))
}

fn in_seconds(seconds: u64) -> u64 {
    unix_ms() / 1000 + seconds
}

#[tokio::test]
async fn a_token_connects_as_its_subject_with_what_it_claims() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server =
        serve(&issuer, "scopes = [\"subscribe\", \"publish\"]\ntier = \"default\"\ntiers = [\"default\", \"pro\"]\n[tier.pro]\nrooms = 3").await;
    let claims = json!({
        "sub": "ann@example.org", "scope": "openid subscribe admin", "tier": "pro", "jti": "1",
        "rooms": [{"match": "dydx:*", "allow": ["subscribe", "publish"]}],
    });
    let client = Live::connect_with(&server.url, auth(&user_token(1, claims))).await;
    let connected = &client.connected;
    assert_eq!(connected["principal"], json!({"id": "ann~40example.org", "tier": "pro"}));
    assert_eq!(connected["limits"]["rooms"], 3);
    let (expires, time) = (connected["expires"].as_u64().unwrap(), connected["time"].as_u64().unwrap());
    assert!(expires > time && time.abs_diff(unix_ms()) < 10_000, "{connected}");
    let joined = client.ask(json!({"type": "subscribe", "rooms": ["dydx:eth", "trades"]})).await;
    assert_eq!(joined["results"][0]["status"], "subscribed");
    let expected = "a token of issuer 'app' may not subscribe to 'trades': no entry of its rooms allows it";
    assert_eq!(joined["results"][1]["error"]["message"], expected);
    let published = client.ask(json!({"type": "publish", "room": "dydx:eth", "data": 1})).await;
    let expected = "a token of issuer 'app' may not publish to 'dydx:eth': it lacks the scope 'publish'";
    assert_eq!(published["error"]["message"], expected);
    // Its inbox, while it has a session.
    let mut publisher = Client::connect(&server).await;
    publisher.publish("@ann~40example.org", json!("hello")).await;
    client.message("@ann~40example.org", 1).await;
    let listed = server.get("/v1/connections").await;
    assert!(listed.to_string().contains("\"token:app\""), "{listed}");

    // In the upgrade.
    let mut request = (&*server.url).into_client_request().unwrap();
    let value = format!("Bearer {}", user_token(1, json!({})));
    request.headers_mut().insert("authorization", value.parse().unwrap());
    let client = Client::open(request).await.authenticate(json!({})).await;
    assert_eq!(client.connected["principal"]["id"], "ann");
    let mut request = (&*server.url).into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {}", user_token(2, json!({}))).parse().unwrap());
    let refused = tokio_tungstenite::connect_async(request).await;
    // The key was asked for a moment ago, so this one is not known to be wrong.
    let Err(tungstenite::Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert!(response.status() == 503 && response.headers().contains_key("retry-after"), "{response:?}");
    // An HTTP call needs a key.
    let (status, answer) = server.call("GET", "/v1/rooms", Some(&user_token(1, json!({}))), "").await;
    assert!(status == 401 && answer.contains("needs an API key"), "{answer}");
}

#[tokio::test]
async fn tokens_that_are_not_valid_close_with_4401_and_say_what_is_wrong() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server = serve(&issuer, "lifetime = \"1h\"").await;
    let forged = {
        let (good, other) = (user_token(1, json!({})), user_token(1, json!({"sub": "bob"})));
        format!("{}.{}", good.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1)
    };
    for (token, code, expected) in [
        (forged, "invalid_token", "signature"),
        (user_token(1, json!({"iss": "https://evil.example"})), "invalid_token", "issuer (iss)"),
        (user_token(1, json!({"aud": "other"})), "invalid_token", "audience (aud)"),
        (user_token(1, json!({"exp": null})), "invalid_token", "'exp' is missing"),
        (user_token(1, json!({"exp": in_seconds(3700)})), "invalid_token", "longer than 1h"),
        (user_token(1, json!({"nbf": in_seconds(300)})), "invalid_token", "'nbf' is in the future"),
        (user_token(1, json!({"iat": 0, "exp": 100})), "expired_token", "expired"),
        (user_token(1, json!({"tier": "gold"})), "invalid_token", "tier"),
        // A key has this principal.
        (user_token(1, json!({"sub": "acme"})), "invalid_token", "belongs to an API key"),
        ("eyJ".to_owned() + &"x".repeat(9000), "invalid_token", "at most 8192"),
        ("nonsense".to_owned(), "invalid_token", "not a signed JSON Web Token"),
    ] {
        let (error, close) = rejected(&server, &token).await;
        assert_eq!((error["code"].as_str(), close), (Some(code), Some(4401)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(expected), "{expected}: {error}");
    }
    let both = json!({"type": "connect", "auth": {"token": user_token(1, json!({})), "apiKey": KEY}});
    assert_eq!(Client::rejected_connect(&server.url, both).await, ("auth_required".to_owned(), 4401));
}

#[tokio::test]
async fn a_connection_ends_with_its_token_and_its_session_can_be_resumed() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server = serve(&issuer, "leeway = \"0s\"").await;
    let client = Live::connect_with(&server.url, auth(&user_token(1, json!({"exp": in_seconds(2)})))).await;
    client.subscribe(json!(["tvl"])).await;
    assert_eq!(client.ended(Duration::from_secs(10)).await, End { code: Some(4401) });
    let frames = client.frames();
    let last = frames.iter().rfind(|frame| frame["type"] == "error").expect("an error before the close");
    assert_eq!(last["error"]["code"], "expired_token");
    let fields = json!({"auth": {"token": user_token(1, json!({}))}, "session": client.token()});
    let resumed = Live::connect_with(&server.url, fields).await;
    assert!(resumed.resumed("tvl").is_some(), "{}", resumed.connected);
}

#[tokio::test]
async fn a_refresh_extends_a_connection_and_changes_what_it_may_do() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server = serve(&issuer, "leeway = \"0s\"\nscopes = [\"subscribe\", \"publish\"]").await;
    let client = Live::connect_with(&server.url, auth(&user_token(1, json!({"exp": in_seconds(3)})))).await;
    client.subscribe(json!(["dydx:eth", "trades"])).await;
    let refresh =
        async |token: String| client.ask(json!({"type": "refresh", "auth": {"token": token}})).await;
    // What is refused changes nothing.
    let refused = refresh(user_token(1, json!({"sub": "bob"}))).await;
    assert_eq!(refused["error"]["code"], "forbidden", "{refused}");
    let refused = refresh("nonsense".to_owned()).await;
    assert_eq!(refused["error"]["code"], "invalid_token", "{refused}");
    let refused = client.ask(json!({"type": "refresh"})).await;
    assert_eq!(refused["error"]["code"], "invalid_request", "{refused}");

    let expires = in_seconds(600);
    let rooms = json!([{"match": "dydx:*", "allow": ["subscribe"]}]);
    let refreshed = refresh(user_token(1, json!({"exp": expires, "rooms": rooms}))).await;
    assert_eq!((&refreshed["type"], &refreshed["expires"]), (&json!("refreshed"), &json!(expires * 1000)));
    assert!(refreshed["time"].is_u64(), "{refreshed}");
    let removed = client.wait_for_frame("a removal", |frame| frame["type"] == "unsubscribed").await;
    assert_eq!(
        (&removed["results"][0]["room"], &removed["results"][0]["status"]),
        (&json!("trades"), &json!("removed"))
    );
    let published = client.ask(json!({"type": "publish", "room": "dydx:eth", "data": 1})).await;
    assert_eq!(published["error"]["code"], "forbidden");
    // The first token has expired by now.
    tokio::time::sleep(Duration::from_secs(4)).await;
    client.round_trip().await;
    for _ in 0..10 {
        refresh(user_token(1, json!({}))).await;
    }
    let refused = refresh(user_token(1, json!({}))).await;
    assert_eq!(refused["error"]["code"], "rate_limited", "{refused}");
    assert!(refused["error"]["retryAfter"].is_u64());
}

#[tokio::test]
async fn a_key_that_expires_says_so_and_can_be_refreshed() {
    let at = humantime::format_rfc3339_seconds(std::time::SystemTime::now() + Duration::from_secs(3600));
    let expiring = Server::key("sk_expiring", "team", r#"["subscribe"]"#, &format!("expires = {at}"));
    let lasting = Server::key("sk_lasting", "team", r#"["subscribe"]"#, "");
    let server = Server::start_with(&(Server::keys() + &expiring + &lasting)).await;
    let client = Live::connect_with(&server.url, json!({"auth": {"apiKey": "sk_expiring"}})).await;
    assert!(
        client.connected["expires"].is_u64() && client.connected["time"].is_u64(),
        "{}",
        client.connected
    );
    let refreshed = client.ask(json!({"type": "refresh", "auth": {"apiKey": "sk_lasting"}})).await;
    assert_eq!(refreshed["type"], "refreshed");
    assert!(refreshed.get("expires").is_none() && refreshed.get("time").is_none(), "{refreshed}");
    // The first key is not needed any more.
    server.reconfigure(&(Server::keys() + &lasting));
    super::becomes(&server, "sk_expiring", false).await;
    client.round_trip().await;
}

#[tokio::test]
async fn unknown_keys_are_not_fetched_for_each_token() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server = serve(&issuer, "").await;
    Live::connect_with(&server.url, auth(&user_token(1, json!({})))).await;
    // Keys were fetched a moment ago: that is no verdict.
    for key in 2..20 {
        let (error, close) = rejected(&server, &user_token(key, json!({}))).await;
        assert_eq!((&error["code"], close), (&json!("issuer_unavailable"), Some(4503)), "{error}");
        assert!(error["retryAfter"].as_u64().is_some_and(|wait| wait <= 30_001), "{error}");
    }
    assert_eq!(issuer.fetches(), 1);
    Live::connect_with(&server.url, auth(&user_token(1, json!({})))).await;
}

/// A token that names a new key has it fetched, once the node may.
#[tokio::test]
async fn tokens_with_a_new_key_are_accepted_within_half_a_minute() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server = serve(&issuer, "").await;
    issuer.set(KeyServer::Keys(vec![1, 2]));
    let refused =
        Live::try_connect(&server.url, auth(&user_token(2, json!({})))).await.err().expect("no verdict");
    let wait = refused["error"]["retryAfter"].as_u64().expect("when it can be fetched");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    Live::connect_with(&server.url, auth(&user_token(2, json!({})))).await;
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn keys_are_fetched_over_tls_from_a_server_that_is_trusted() {
    let mut issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let certificate = Certificate::generate();
    let port = issuer.listen_with_tls(&certificate).await;
    let start = async |host: &str, trusted: &Certificate| {
        let folder = tempfile::tempdir().unwrap();
        trusted.write_to(folder.path());
        let section = issuer.section_at(&format!("https://{host}:{port}/jwks.json"), "ca = \"cert.pem\"");
        Server::start_in(folder, &(Server::keys() + &section)).await
    };
    let server = start("localhost", &certificate).await;
    issuer.fetched(1).await;
    Live::connect_with(&server.url, auth(&user_token(1, json!({})))).await;
    // Another authority, and another name than that of the certificate.
    for server in [start("localhost", &Certificate::generate()).await, start("127.0.0.2", &certificate).await]
    {
        let (error, close) = rejected(&server, &user_token(1, json!({}))).await;
        assert_eq!((&error["code"], close), (&json!("issuer_unavailable"), Some(4503)), "{error}");
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn an_issuer_that_hangs_lies_or_is_away_gives_no_verdict_and_recovers() {
    for behavior in [
        KeyServer::Hangs,
        KeyServer::Endless,
        KeyServer::Status(302),
        KeyServer::Status(500),
        KeyServer::Text("<html>"),
        KeyServer::Text(r#"{"keys":[]}"#),
    ] {
        let shown = format!("{behavior:?}");
        let issuer = Issuer::start(behavior).await;
        let server = serve(&issuer, "").await;
        let (error, close) = rejected(&server, &user_token(1, json!({}))).await;
        assert_eq!((&error["code"], close), (&json!("issuer_unavailable"), Some(4503)), "{shown}: {error}");
        assert!(error["retryAfter"].is_u64(), "{shown}: {error}");
        issuer.set(KeyServer::Keys(vec![1]));
        let connected = async {
            while let Err(refused) = Live::try_connect(&server.url, auth(&user_token(1, json!({})))).await {
                let wait =
                    refused["error"]["retryAfter"].as_u64().expect("no verdict until the keys are there");
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), connected).await.unwrap_or_else(|_| panic!("{shown}"));
    }
}

#[tokio::test]
async fn a_changed_issuer_holds_for_connections_that_exist() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let section = |more: &str| Server::keys() + &issuer.section(&format!("prefix = \"app-\"\n{more}"));
    // A reload that would remove all issuers has to be confirmed.
    let other = "[[issuer]]\nname = \"shop\"\nissuer = \"https://shop.example.org\"\naudience = \"switchyard\"\n\
                 algorithms = [\"EdDSA\"]\nkeys = \"none.json\"\nprefix = \"shop-\"\n";
    let server = Server::start_with(&(section("") + other)).await;
    issuer.fetched(1).await;
    let client = Live::connect_with(&server.url, auth(&user_token(1, json!({})))).await;
    client.subscribe(json!(["dydx:eth", "trades"])).await;
    server.reconfigure(&(section(r#"rooms = [{ match = "dydx:*", allow = ["subscribe"] }]"#) + other));
    let removed = client.wait_for_frame("a removal", |frame| frame["type"] == "unsubscribed").await;
    assert_eq!(removed["results"][0]["room"], "trades", "{removed}");
    client.round_trip().await;
    server.reconfigure(&(Server::keys() + other));
    assert_eq!(client.ended(Duration::from_secs(10)).await, End { code: Some(4410) });
}

/// A reload that changes whom an issuer is, or where its keys come from, ends what was verified before.
#[tokio::test]
async fn tokens_that_were_verified_with_other_keys_end() {
    let (issuer, other) =
        (Issuer::start(KeyServer::Keys(vec![1])).await, Issuer::start(KeyServer::Keys(vec![2])).await);
    let server = serve(&issuer, "").await;
    let client = Live::connect_with(&server.url, auth(&user_token(1, json!({})))).await;
    server.reconfigure(&(Server::keys() + &issuer.section("leeway = \"1m\"")));
    other.set(KeyServer::Keys(vec![2]));
    server.reconfigure(&(Server::keys() + &other.section("")));
    assert_eq!(client.ended(Duration::from_secs(10)).await, End { code: Some(4410) });
    other.fetched(1).await;
    Live::connect_with(&server.url, auth(&user_token(2, json!({})))).await;
}

#[tokio::test]
async fn revoked_tokens_end_their_connections_and_are_refused() {
    let issuer = Issuer::start(KeyServer::Keys(vec![1])).await;
    let server = serve(&issuer, "leeway = \"1s\"").await;
    let token =
        |id: &str, subject: &str, iat: u64| user_token(1, json!({"jti": id, "sub": subject, "iat": iat}));
    let before = in_seconds(0) - 10;
    let (one, other) = (token("one", "ann", before), token("other", "ann", before));
    let [revoked, stays] = [
        Live::connect_with(&server.url, auth(&one)).await,
        Live::connect_with(&server.url, auth(&other)).await,
    ];
    let bob = Live::connect_with(&server.url, auth(&token("bob", "bob", before))).await;
    let revoke =
        async |body: Value| server.call("POST", "/v1/tokens/revoke", Some(KEY), body.to_string()).await;
    let (status, answer) = revoke(json!({"id": "one"})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(revoked.ended(Duration::from_secs(5)).await, End { code: Some(4410) });
    let (error, close) = rejected(&server, &one).await;
    assert_eq!((&error["code"], close), (&json!("invalid_token"), Some(4401)), "{error}");
    stays.round_trip().await;
    let (status, answer) =
        server.call("POST", "/v1/tokens/check", Some(KEY), json!({"token": one}).to_string()).await;
    assert!(status == 200 && answer.contains("the token was revoked"), "{answer}");

    let (status, answer) = revoke(json!({"principal": "ann", "for": "24h"})).await;
    assert!(status == 400 && answer.contains("for must be between 1day 2s"), "with the leeway: {answer}");
    let (status, answer) = revoke(json!({"principal": "ann"})).await;
    let kept: Value = serde_json::from_str(&answer).expect("JSON");
    let kept = kept["until"].as_u64().unwrap() - kept["since"].as_u64().unwrap();
    assert_eq!((status, kept), (200, (24 * 3600 + 2) * 1000), "{answer}");
    assert_eq!(stays.ended(Duration::from_secs(5)).await, End { code: Some(4410) });
    rejected(&server, &other).await;
    rejected(&server, &user_token(1, json!({"jti": "third", "iat": null}))).await;
    // A token that is issued later is accepted, and so are those of others.
    let later = async {
        while Live::try_connect(&server.url, auth(&token("later", "ann", in_seconds(0)))).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), later)
        .await
        .expect("a token that was issued after the revocation");
    bob.round_trip().await;
}

#[tokio::test]
async fn keys_in_a_file_serve_two_issuers_with_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), key_set(&[1])).unwrap();
    let section = |name: &str, issuer: &str| {
        format!(
            "[[issuer]]\nname = \"{name}\"\nissuer = \"{issuer}\"\naudience = \"switchyard\"\nalgorithms = [\"EdDSA\"]\n\
             keys = \"jwks.json\"\nprefix = \"{name}-\"\n"
        )
    };
    let text = Server::keys() + &section("app", ISSUER) + &section("shop", "https://shop.example.org");
    let server = Server::start_in(folder, &text).await;
    for (issuer, principal) in [(ISSUER, "app-ann"), ("https://shop.example.org", "shop-ann")] {
        let client = Live::connect_with(&server.url, auth(&user_token(1, json!({"iss": issuer})))).await;
        assert_eq!(client.connected["principal"]["id"], principal);
    }
}
