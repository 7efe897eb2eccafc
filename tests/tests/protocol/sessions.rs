//! How long a session lives, whose it is, and that it has one connection at a time.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::time::Duration;
use switchyard_tests::{Client, EVENT_TIMEOUT, KEY, Server, eventually, guest};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_session_outlives_its_connection_by_its_ttl() {
    let server = Server::start("[session]\nttl = \"1s\"").await;
    let mut watcher = Client::connect(&server).await;
    watcher.subscribe(json!(["prices"])).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    let count = async |watcher: &mut Client| {
        watcher.ask(json!({"type": "members", "room": "prices"})).await["count"].clone()
    };
    assert_eq!(count(&mut watcher).await, 2);
    let token = client.token();
    client.cut();
    // Back in time, and away again.
    let client = Client::resume(&server, &token).await;
    assert_eq!((&client.connected["resumed"], &client.connected["session"]), (&json!(true), &json!(token)));
    assert_eq!(count(&mut watcher).await, 2, "a session is counted, not its connections");
    client.cut();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(count(&mut watcher).await, 2, "a member until its ttl ends");
    tokio::time::sleep(Duration::from_millis(900)).await;
    let client = Client::resume(&server, &token).await;
    assert_eq!((&client.connected["resumed"], &client.connected["rooms"]), (&json!(false), &json!([])));
    assert_ne!(client.token(), token);
    // Expired sessions are removed periodically.
    timeout(EVENT_TIMEOUT, async {
        while count(&mut watcher).await != 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("swept in time");
    Client::connect(&server).await.publish("prices", json!(1)).await;
    assert_eq!(server.get("/v1/rooms/prices/messages/1/receipt").await["members"], 1);
}

/// A close by the client is no different from a lost connection.
#[tokio::test]
async fn a_client_that_closed_can_resume() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    client.socket.close(None).await.expect("a connection");
    let resumed = Client::resume(&server, &token).await;
    assert_eq!(resumed.connected["resumed"], true);
    assert_eq!(resumed.connected["rooms"].as_array().map(Vec::len), Some(3));
}

/// The plugin accepts a client, and refuses everybody after a change of its configuration.
#[tokio::test]
async fn a_connection_that_a_plugin_refuses_does_not_close_the_one_that_holds_the_session() {
    let plugin = |connect: &str| {
        let file = guest("hostile").display().to_string();
        format!(
            "[[plugin]]\nname = \"p\"\nfile = \"{file}\"\nrooms = [\"p:*\"]\n\
             config = {{ connect = \"{connect}\" }}\n"
        )
    };
    let server = Server::start(&plugin("busy-1")).await;
    let mut old = Client::connect(&server).await;
    old.subscribe(json!(["prices"])).await;
    let mut publisher = Client::connect(&server).await;
    server.reconfigure(&(Server::keys() + &plugin("refuse")));
    let connect =
        |session: Option<String>| json!({"type": "connect", "auth": {"apiKey": KEY}, "session": session});
    eventually("the plugin refuses", async || {
        let mut client = Client::open(&*server.url).await;
        client.send(connect(None)).await;
        (client.recv().await["type"] == "error").then_some(())
    })
    .await;
    let (code, close) = Client::rejected_connect(&server.url, connect(Some(old.token()))).await;
    assert_eq!((&*code, close), ("forbidden", 4403));
    publisher.publish("prices", json!(1)).await;
    assert_eq!(old.expect("message").await["data"], 1);
    old.round_trip().await;
}

/// Regression: an operator closed a connection while the plugin was asked about it. It took the session over
/// nevertheless, and the session ended with it.
#[tokio::test]
async fn a_connection_that_is_closed_while_a_plugin_is_asked_takes_no_session() {
    let file = guest("hostile").display().to_string();
    let server = Server::start(&format!(
        "[[plugin]]\nname = \"p\"\nfile = \"{file}\"\nrooms = [\"p:*\"]\nbudget = {{ call = \"3s\" }}\n\
         config = {{ connect = \"busy-900\" }}\n"
    ))
    .await;
    let mut old = Client::connect(&server).await;
    old.subscribe(json!(["prices"])).await;
    let mut new = Client::open(&*server.url).await;
    new.send(json!({"type": "connect", "auth": {"apiKey": KEY}, "session": old.token()})).await;
    let path = eventually("the plugin is being asked", async || {
        let page = server.get("/v1/connections").await;
        let mut ids = page["connections"].as_array().expect("a list").iter().map(|one| one["id"].clone());
        let id = ids.find(|id| *id != old.connected["connection"])?;
        Some(format!("/v1/connections/{}", id.as_str().expect("an id")))
    })
    .await;
    assert_eq!(server.call("DELETE", &path, Some(KEY), "").await.0, 204);
    assert_eq!(new.closed().await.code, 4403);
    let mut publisher = Client::connect(&server).await;
    publisher.publish("prices", json!(1)).await;
    assert_eq!(old.expect("message").await["data"], 1);
    let token = old.token();
    old.cut();
    assert_eq!(Client::resume(&server, &token).await.connected["resumed"], true);
}

/// Regression: on resuming, the join under one name was recorded, and the one under the other name, refused because
/// the connection was joining already, removed the room again.
#[tokio::test]
async fn a_session_keeps_a_room_when_a_plugin_gives_its_two_names_the_same_room() {
    let plugin = |name: &str, config: &str| {
        let file = guest(name).display().to_string();
        format!("[[plugin]]\nname = \"p\"\nfile = \"{file}\"\nrooms = [\"*:ethereum\"]\nconfig = {config}\n")
    };
    let server = Server::start(&plugin("hostile", "{}")).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["curve:ethereum", "CURVE:ethereum"])).await;
    let token = client.token();
    client.cut();
    let config = "{ protocols = [\"curve\"], chains = [\"ethereum\"] }";
    server.reconfigure(&(Server::keys() + &plugin("protocol_rooms", config)));
    eventually("the plugin that knows one spelling is active", async || {
        let mut other = Client::connect(&server).await;
        let subscribed = other.ask(json!({"type": "subscribe", "rooms": ["CURVE:ethereum"]})).await;
        (subscribed["results"][0]["room"] == "curve:ethereum").then_some(())
    })
    .await;
    for _ in 0..2 {
        let resumed = Client::resume(&server, &token).await;
        let rooms = resumed.connected["rooms"].as_array().expect("a list");
        let joined = rooms.iter().any(|room| room["room"] == "curve:ethereum" && room.get("error").is_none());
        assert!(joined, "{rooms:?}");
        resumed.cut();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_concurrent_resumes_one_wins() {
    let server = Server::start("").await;
    let mut publisher = Client::connect(&server).await;
    let live = async |what: &str, expected: usize| {
        eventually(what, async || {
            let page = server.get("/v1/connections").await;
            (page["connections"].as_array().map(Vec::len) == Some(expected)).then_some(())
        })
        .await;
    };
    for round in 1..=100 {
        let mut first = Client::connect(&server).await;
        first.subscribe(json!(["prices"])).await;
        let resume = json!({"type": "connect", "auth": {"apiKey": KEY}, "session": first.token()});
        let mut clients = vec![first];
        for _ in 0..4 {
            clients.push(Client::open(&*server.url).await);
        }
        for client in &mut clients[1..] {
            client.send(resume.clone()).await;
        }
        publisher.publish("prices", json!(round)).await;
        let (mut stayed, mut received, mut answered) = (vec![], 0, vec![]);
        // Each was accepted, or was already too late.
        for (n, mut client) in clients.into_iter().enumerate() {
            if n == 0 || !matches!(next(&mut client, &mut received).await, Next::Closed) {
                answered.push(client);
            }
        }
        live("one connection besides the publisher's", 2).await;
        for mut client in answered {
            client.socket.send(Message::text(r#"{"type":"ping"}"#)).await.ok();
            loop {
                match next(&mut client, &mut received).await {
                    Next::Pong => break stayed.push(client),
                    Next::Closed => break,
                    Next::Other => {}
                }
            }
        }
        assert_eq!(stayed.len(), 1, "round {round}");
        // A replay runs concurrently with requests, so it may come after the pong.
        while received == 0 {
            let next = next(&mut stayed[0], &mut received).await;
            assert!(matches!(next, Next::Other), "what was published meanwhile is not lost: round {round}");
        }
        drop(stayed);
        live("only the publisher", 1).await;
    }
}

enum Next {
    Pong,
    /// Another connection has the session.
    Closed,
    Other,
}

/// The next frame that is not a delivery; deliveries are counted.
async fn next(client: &mut Client, received: &mut u32) -> Next {
    match timeout(EVENT_TIMEOUT, client.socket.next()).await.expect("a frame in time") {
        Some(Ok(Message::Text(text))) => {
            *received += u32::from(text.contains(r#""type":"message""#));
            if text.contains(r#""type":"pong""#) { Next::Pong } else { Next::Other }
        }
        Some(Ok(Message::Close(Some(close)))) => {
            // Or its request came before that of the connection that has the session by now.
            assert!([4409, 4503].contains(&u16::from(close.code)), "{close}");
            Next::Closed
        }
        Some(Ok(_)) => Next::Other,
        other => panic!("{other:?}"),
    }
}
