//! A Cluster whose servers do not agree.

use super::*;

/// Regression: servers that reported different epochs looked like slots that moved again and again. All rooms
/// were subscribed to again each time, and the table of slots could be that of the server that was behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_of_the_latest_change_is_ignored() {
    let nodes = start_cluster(&["--cluster-require-full-coverage", "no"]).await;
    let url = cluster_url(&nodes);
    let site = Site { url: RedisUrl::parse(&url).unwrap(), prefix: "s".to_owned() };
    let (metrics, account) = (crate::StoreMetrics::default(), MemoryAccount::unlimited());
    let (feed, vitals): (EventFeed, _) = (Arc::new(|_| true), VitalTasks::default());
    let store = RedisStore::connect(&site, retention(), metrics.clone(), feed, &account, |_| {}, &vitals)
        .await
        .unwrap();
    let epoch = |node: &Server| -> u64 {
        let info = node.ask(&["CLUSTER", "INFO"]);
        let line = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"));
        line.unwrap().trim().parse().unwrap()
    };
    // One server does not know the others any more, but they know it.
    for node in &nodes[..2] {
        assert_eq!(nodes[2].ask(&["CLUSTER", "FORGET", &node.ask(&["CLUSTER", "MYID"])]), "OK");
    }
    let behind = epoch(&nodes[2]);
    until("a newer epoch", || {
        nodes[..2].iter().for_each(|node| drop(node.ask(&["CLUSTER", "BUMPEPOCH"])));
        epoch(&nodes[0]) > behind && epoch(&nodes[1]) > behind
    })
    .await;
    let rooms: Vec<_> = (0..30).map(|n| RoomName::parse(&format!("room:{n}")).unwrap()).collect();
    rooms.iter().for_each(|room| store.subscribe(room));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let subscribed = count(&metrics, "SSUBSCRIBE");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(epoch(&nodes[2]), behind, "it is still behind");
    assert_eq!(count(&metrics, "SSUBSCRIBE"), subscribed, "no slot has moved");
    let servers = store.leased.context.link.servers().len();
    assert_eq!(servers, 3, "the server still has its slots");
}
