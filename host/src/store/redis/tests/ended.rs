//! Sessions whose time is over, many at once.

use super::*;
use futures_util::future::join_all;

/// A node was given 500 of them a second, however fast it removed them, while one client made more than that.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_removed_as_fast_as_they_can_be() {
    const SESSIONS: usize = 2600;
    let server = Server::start(&[]);
    let retention = Retention { session: Duration::from_secs(600), ..retention() };
    let metrics = crate::metrics::Metrics::default();
    let (counted, account, vitals) = (metrics.store.clone(), Account::boundless(), Vitals::default());
    let feed: Feed = Arc::new(|_| true);
    let store =
        Redis::connect(&server.site(), retention, counted, feed, &account, |_| {}, &vitals).await.unwrap();
    let principal: Arc<str> = "acme".into();
    for _ in 0..SESSIONS / 100 {
        join_all((0..100).map(async |_| {
            let (connection, position) = (ConnectionId::random(), Position { epoch: "e".into(), offset: 0 });
            let membership = Membership { filter: None, position };
            let join = Join { room: RoomName::broadcast(), membership, anew: true };
            let token = store.create_session(&principal, connection, vec![join]).await.unwrap();
            store.detach(Hold { token, connection });
        }))
        .await;
    }
    until("sessions that end", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == SESSIONS.to_string()).await;
    // All at once.
    let overdue = "for _, session in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
        redis.call('ZADD', KEYS[1], 1, session) redis.call('HSET', 's:{@acme}:session:' .. session:match(' (.*)'), 'until', 1) end";
    server.ask(&["EVAL", overdue, "1", "s:{/nodes}:ends"]);
    until("none on the list", || server.ask(&["ZCARD", "s:{/nodes}:ends"]) == "0").await;
    assert_eq!(
        (server.ask(&["KEYS", "s:*session*"]), server.ask(&["ZCARD", "s:{*}:members"])),
        ("".into(), "0".into())
    );
    let text = metrics.encode();
    let given = |line: &str| {
        line.strip_prefix("switchyard_store_command_seconds_count{command=\"due\"} ")?.parse().ok()
    };
    let given: usize = text.lines().find_map(given).expect("what is due was asked for");
    assert!(given >= SESSIONS / 500, "it did not go on without the lease: {given}");
}
