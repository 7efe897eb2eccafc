//! What a client of the proxy receives, and which commands reach Redis.

use super::{Pattern, Proxy, resp::Values};
use crate::{EVENT_TIMEOUT, Redis, Rule};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// A client that sends without waiting for answers.
struct Peer {
    replies: Values<OwnedReadHalf>,
    requests: OwnedWriteHalf,
}

impl Peer {
    async fn connect(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("a proxy");
        let (from, requests) = stream.into_split();
        Self { replies: Values::new(from), requests }
    }

    async fn send(&mut self, command: &str) {
        let words: Vec<_> = command.split(' ').collect();
        let mut bytes = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| bytes += &format!("${}\r\n{word}\r\n", word.len()));
        self.requests.write_all(bytes.as_bytes()).await.expect("a connection");
    }

    /// The next value as one line; `None` at the end of the connection.
    async fn reply(&mut self) -> Option<String> {
        let value = timeout(EVENT_TIMEOUT, self.replies.next()).await.expect("a reply in time")?;
        Some(String::from_utf8(value).expect("text").trim_end().replace("\r\n", " "))
    }

    async fn ask(&mut self, command: &str) -> String {
        self.send(command).await;
        self.reply().await.expect("a reply")
    }

    /// Checks that nothing arrives within the time of a round trip to Redis.
    async fn hears_nothing(&mut self, redis: &Redis) {
        redis.command(&["PING"]).await;
        let reply = timeout(std::time::Duration::from_millis(20), self.replies.next()).await;
        assert!(reply.is_err(), "{:?}", reply.unwrap());
    }
}

async fn start() -> (Redis, Proxy, Peer) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let peer = Peer::connect(&proxy).await;
    (redis, proxy, peer)
}

fn incr(key: &str) -> Pattern {
    Pattern::command("incr").containing(key)
}

#[tokio::test]
async fn everything_passes_and_is_counted() {
    let (_redis, proxy, mut peer) = start().await;
    for command in ["SET a 1", "INCR a", "GET a", "HELLO 3", "LRANGE none 0 -1", "NO SUCH", "GET none"] {
        peer.send(command).await;
    }
    assert_eq!(peer.reply().await.unwrap(), "+OK");
    assert_eq!(peer.reply().await.unwrap(), ":2");
    assert_eq!(peer.reply().await.unwrap(), "$1 2");
    assert!(peer.reply().await.unwrap().starts_with("%7 "));
    assert_eq!(peer.reply().await.unwrap(), "*0");
    assert!(peer.reply().await.unwrap().starts_with("-ERR unknown command"));
    assert_eq!(peer.reply().await.unwrap(), "_");
    assert_eq!((proxy.passed()["GET"], proxy.passed()["INCR"], proxy.total()), (2, 1, 7));
}

#[tokio::test]
async fn scripts_of_the_host_go_by_their_names() {
    let (redis, proxy, mut peer) = start().await;
    let code = ["prelude", "members"].map(|name| {
        std::fs::read_to_string(format!("{}/{name}.lua", super::SCRIPTS_FOLDER)).expect("a script")
    });
    let digest = redis.command(&["SCRIPT", "LOAD", &code.concat()]).await;
    let failed = proxy.fail(Pattern::script("members").times(1));
    let run = format!("EVALSHA {digest} 1 nobody 10");
    assert_eq!(peer.ask(&run).await, "-ERR made up");
    assert_eq!(peer.ask(&run).await, "*3 :0 :0 *0");
    assert_eq!((failed.count(), proxy.passed()["script members"]), (1, 1));
}

#[tokio::test]
async fn a_held_request_waits_with_all_behind_it_and_is_carried_out_though_its_client_went() {
    let (redis, proxy, mut peer) = start().await;
    let held = proxy.hold(incr("a").times(1));
    for command in ["INCR b", "INCR a", "INCR c"] {
        peer.send(command).await;
    }
    assert_eq!(peer.reply().await.unwrap(), ":1");
    held.matched().await;
    // Other connections do not wait, and the rule does not apply to a second command.
    assert_eq!(Peer::connect(&proxy).await.ask("INCR a").await, ":1");
    peer.hears_nothing(&redis).await;
    drop(peer);
    assert_eq!(redis.command(&["MGET", "a", "c"]).await, "1\n");
    held.release();
    crate::eventually("the rest", async || {
        (redis.command(&["MGET", "a", "c"]).await == "2\n1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_detained_request_is_carried_out_late_and_those_behind_it_on_time() {
    let (redis, proxy, mut peer) = start().await;
    let detained = proxy.delay(Pattern::command("SET").containing("a"));
    for command in ["SET a late", "INCR b", "APPEND a -early"] {
        peer.send(command).await;
    }
    detained.matched().await;
    crate::eventually("the one behind it", async || {
        (redis.command(&["GET", "a"]).await == "-early").then_some(())
    })
    .await;
    peer.hears_nothing(&redis).await;
    detained.release();
    assert_eq!(peer.reply().await.unwrap(), "+OK");
    assert_eq!(peer.reply().await.unwrap(), ":1");
    assert_eq!(peer.reply().await.unwrap(), ":6", "of what was there then");
    assert_eq!(redis.command(&["GET", "a"]).await, "late");
}

#[tokio::test]
async fn an_answer_is_held_or_lost_though_its_request_was_carried_out() {
    let (redis, proxy, mut peer) = start().await;
    let held = proxy.hold_answer(incr("a"));
    peer.send("INCR a").await;
    peer.send("INCR b").await;
    crate::eventually("both", async || (redis.command(&["GET", "b"]).await == "1").then_some(())).await;
    peer.hears_nothing(&redis).await;
    held.release();
    assert_eq!(peer.reply().await.unwrap(), ":1");
    assert_eq!(peer.reply().await.unwrap(), ":1");

    let lost = proxy.lose_answer(incr("a").times(1));
    peer.send("GET b").await;
    peer.send("INCR a").await;
    assert_eq!(peer.reply().await.unwrap(), "$1 1");
    assert_eq!(peer.reply().await, None);
    assert_eq!((lost.count(), redis.command(&["GET", "a"]).await.as_str()), (1, "2"));
}

#[tokio::test]
async fn a_request_is_dropped_or_failed_and_never_carried_out() {
    let (redis, proxy, mut peer) = start().await;
    let _failed = proxy.fail(incr("a").times(1));
    assert_eq!(peer.ask("INCR a").await, "-ERR made up");
    let _dropped = proxy.drop_request(incr("a").times(1));
    peer.send("INCR b").await;
    peer.send("INCR a").await;
    assert_eq!(peer.reply().await.unwrap(), ":1");
    assert_eq!(peer.reply().await, None);
    assert_eq!(redis.command(&["GET", "a"]).await, "");
    assert_eq!(Peer::connect(&proxy).await.ask("INCR a").await, ":1");
}

#[tokio::test]
async fn connections_are_cut_refused_and_stalled() {
    let (redis, proxy, mut peer) = start().await;
    let held: Rule = proxy.hold(incr("a"));
    peer.send("INCR a").await;
    held.matched().await;
    proxy.cut();
    assert_eq!(peer.reply().await, None);
    held.release();
    let mut peer = Peer::connect(&proxy).await;
    assert_eq!(peer.ask("INCR a").await, ":1", "what was held went with the connection");

    proxy.refuse();
    assert_eq!(peer.reply().await, None);
    assert_eq!(Peer::connect(&proxy).await.reply().await, None);
    proxy.accept();
    let mut peer = Peer::connect(&proxy).await;
    assert_eq!(peer.ask("INCR a").await, ":2");

    proxy.swallow();
    peer.send("INCR a").await;
    let mut new = Peer::connect(&proxy).await;
    new.send("INCR b").await;
    peer.hears_nothing(&redis).await;
    new.hears_nothing(&redis).await;
    assert_eq!(redis.command(&["MGET", "a", "b"]).await, "2\n");
    proxy.pass();
    assert_eq!((peer.reply().await.unwrap(), new.reply().await.unwrap()), (":3".into(), ":1".into()));
}

#[tokio::test]
async fn messages_come_between_answers_and_wait_behind_one_that_is_held() {
    let (redis, proxy, mut peer) = start().await;
    peer.ask("HELLO 3").await;
    peer.send("SSUBSCRIBE one two").await;
    for channel in ["one", "two"] {
        assert!(peer.reply().await.unwrap().contains(channel));
    }
    let held = proxy.hold_answer(Pattern::command("SSUBSCRIBE"));
    peer.send("SSUBSCRIBE three").await;
    peer.send("PING").await;
    crate::eventually("a subscription", async || {
        redis.command(&["PUBSUB", "SHARDNUMSUB", "three"]).await.ends_with('1').then_some(())
    })
    .await;
    redis.command(&["SPUBLISH", "three", "hello"]).await;
    peer.hears_nothing(&redis).await;
    held.release();
    assert!(peer.reply().await.unwrap().contains("ssubscribe"));
    let rest = [peer.reply().await.unwrap(), peer.reply().await.unwrap()];
    assert!(rest.contains(&"+PONG".into()), "{rest:?}");
    assert!(rest.contains(&">3 $8 smessage $5 three $5 hello".into()), "{rest:?}");
}
