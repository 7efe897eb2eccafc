//! Sessions that expire: many at once, and one whose expiry was recorded too early.

use super::*;
use futures_util::future::join_all;

/// Regression: a node got at most 500 expired sessions a second, however fast it deleted them, and one client
/// could create more.
#[tokio::test(flavor = "multi_thread")]
async fn expired_sessions_are_deleted_as_fast_as_possible() {
    const SESSIONS: usize = 2600;
    let server = Server::start(&[]);
    let retention = Retention { session_ttl: Duration::from_secs(600), ..retention() };
    let metrics = crate::StoreMetrics::default();
    let (counted, account, vitals) = (metrics.clone(), MemoryAccount::unlimited(), VitalTasks::default());
    let feed: EventFeed = Arc::new(|_| true);
    let store = RedisStore::connect(&server.site(), retention, counted, feed, &account, |_| {}, &vitals)
        .await
        .unwrap();
    let principal: Arc<str> = "acme".into();
    for _ in 0..SESSIONS / 100 {
        join_all((0..100).map(async |_| {
            let (connection, position) = (ConnectionId::random(), Position { epoch: "e".into(), offset: 0 });
            let membership = Membership { filter: None, position };
            let join = Join { room: RoomName::broadcast(), membership, anew: true };
            let token = store.create(&principal, connection, vec![join]).await.unwrap();
            store.detach(SessionHandle { token, connection });
        }))
        .await;
    }
    until("sessions that end", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == SESSIONS.to_string()).await;
    // Let all of them expire at once.
    let overdue = "for _, session in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
        redis.call('ZADD', KEYS[1], 1, session) redis.call('HSET', 's:{@acme}:session:' .. session:match(' (.*)'), 'until', 1) end";
    server.ask(&["EVAL", overdue, "1", "s:{/nodes}:ends"]);
    until("none on the list", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == "0").await;
    assert_eq!(
        (server.ask(&["KEYS", "s:*session*"]), server.ask(&["ZCARD", "s:{*}:members"])),
        ("".into(), "0".into())
    );
    let requests = count(&metrics, "claim_due") as usize;
    assert!(
        requests >= SESSIONS / 500,
        "more are requested before the next renewal of the lease: {requests}"
    );
}

/// Regression: if a node's clock was slightly ahead, its sessions were due before they had expired, were
/// mistaken for resumed ones, and stayed for a day.
#[tokio::test]
async fn a_session_that_is_due_too_early_expires_later() {
    let server = Server::start(&[]);
    let url = RedisUrl::parse(&format!("redis://127.0.0.1:{}", server.port)).unwrap();
    let retention = Retention { session_ttl: Duration::from_secs(3), ..retention() };
    let site = Site { url, prefix: "s".into() };
    let store = connect_with(&site, retention, Arc::new(|_| true), &VitalTasks::default()).await.unwrap();
    let (principal, connection) = ("acme".into(), ConnectionId::random());
    let position = Position { epoch: "e".into(), offset: 0 };
    let membership = Membership { filter: None, position };
    let join = Join { room: RoomName::parse("a").unwrap(), membership, anew: false };
    let token = store.create(&principal, connection, vec![join]).await.unwrap();
    store.detach(SessionHandle { token, connection });
    until("a detached session", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == "1").await;
    let entry = server.ask(&["ZRANGE", "s:{/nodes}:ends", "0", "0"]);
    server.ask(&["ZADD", "s:{/nodes}:ends", "1", &entry]);
    until("an ended session", || server.ask(&["ZCARD", "s:{a}:members"]) == "0").await;
    until("nothing on the list", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == "0").await;
    assert_eq!(server.ask(&["KEYS", "s:*session*"]), "");
}
