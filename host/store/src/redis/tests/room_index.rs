//! The list of rooms, while rooms come and go.

use super::*;
use crate::redis::room_index::{IndexedRoom, read_page, unlist_gone};

/// Regression: a node that found a room to be gone removed it from the list, although another node had
/// created and listed it a moment later.
#[tokio::test]
async fn a_room_that_was_just_created_stays_on_the_list() {
    let server = Server::start(&[]);
    let store = connect(&server.site()).await.unwrap();
    let index = &store.leased.room_index;
    let listed = || server.ask(&["ZRANGE", "s:{/rooms}:names", "0", "-1"]);
    let new = RoomName::parse("new").unwrap();
    // Neither room exists. One is not known to be checked, and the other was due for long.
    server.ask(&["ZADD", "s:{/rooms}:names", "0", "old", "0", "new"]);
    server.ask(&["ZADD", "s:{/rooms}:checks", "1", "new"]);
    let context = &store.leased.context;
    let gone = |page: &[IndexedRoom]| -> Vec<String> {
        page.iter().filter(|room| room.summary.is_none()).map(|room| room.name.to_string()).collect()
    };
    let page = read_page(context, "-", 10).await.unwrap();
    assert_eq!(gone(&page), ["new", "old"]);
    index.add(&new);
    index.write().await;
    assert_eq!(unlist_gone(context, &page).await.unwrap(), 1);
    assert_eq!(listed(), "new", "it was listed again meanwhile");
    // It was listed a moment ago, so it may be about to be created.
    assert_eq!(gone(&index.page("-", 10).await.unwrap()), ["new"]);
    assert_eq!(listed(), "new");
    server.ask(&["ZADD", "s:{/rooms}:checks", "1", "new"]);
    assert_eq!(gone(&index.page("-", 10).await.unwrap()), ["new"]);
    assert_eq!((listed(), server.ask(&["ZCARD", "s:{/rooms}:checks"])), (String::new(), "0".to_owned()));
}
