//! Sessions that are written in the background.

use super::*;
use crate::Event;
use std::sync::atomic::AtomicBool;

/// Regression: if the task that wrote a session panicked, no other task ever wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_written_again_after_the_task_that_wrote_it_panicked() {
    let server = Server::start(&[]);
    let has_panicked = Arc::new(AtomicBool::new(false));
    let panicked = has_panicked.clone();
    let feed: EventFeed = Arc::new(move |event| match event {
        Event::Probe(_) if !panicked.swap(true, Ordering::Relaxed) => panic!("on purpose"),
        _ => true,
    });
    let store = connect_with(&server.site(), retention(), feed, &VitalTasks::default()).await.unwrap();
    let (room, position) = (RoomName::parse("a").unwrap(), Position { epoch: "e".into(), offset: 0 });
    let membership = Membership { filter: None, position: position.clone() };
    let (connection, join) = (ConnectionId::random(), Join { room: room.clone(), membership, anew: false });
    let token = store.create(&"acme".into(), connection, vec![join]).await.unwrap();
    let (handle, record) = (SessionHandle { token, connection }, server.ask(&["KEYS", "s:*session*"]));

    // Redis loses the session. The task that writes it notices, and panics when it reports this.
    server.ask(&["DEL", &record]);
    store.advance(handle, &room, &Position { offset: 5, ..position });
    until("a panic", || has_panicked.load(Ordering::Relaxed)).await;
    until("a session", || {
        // Its client answers the ping.
        store.confirm_alive(handle);
        server.ask(&["EXISTS", &record]) == "1"
    })
    .await;
}
