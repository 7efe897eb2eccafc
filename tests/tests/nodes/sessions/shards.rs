//! One shard of a Cluster fails. Only what is on it is affected, and it is repaired when the shard returns.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Cluster, KEY, Live, Node, Server, eventually, eventually_within};

/// The timeout of a request is 2 s; the rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(4);
/// The keys that nodes have in common. They are on the first shard.
const COMMON: [&str; 5] = ["*", "/nodes", "/rooms", "/keys", "/plugins"];
/// The shard that contains only what the test puts there.
const ALONE: usize = 2;

/// A principal and its key.
struct Principal {
    name: String,
    key: String,
}

impl Principal {
    async fn on(cluster: &Cluster, shard: usize) -> Self {
        let name = named(cluster, shard, "@principal-").await[1..].to_owned();
        Self { key: format!("sk_{name}"), name }
    }

    fn configured(&self) -> String {
        Server::key(&self.key, &self.name, r#"["subscribe", "publish"]"#, "tier = \"few\"")
    }

    async fn client(&self, node: &Node) -> Result<Live, Value> {
        Live::try_connect(&node.url, json!({"auth": {"apiKey": self.key}})).await
    }

    async fn resume(&self, node: &Node, token: &str) -> Live {
        Live::connect_with(&node.url, json!({"auth": {"apiKey": self.key}, "session": token})).await
    }
}

/// A name with this prefix whose slot is on the shard.
async fn named(cluster: &Cluster, shard: usize, beginning: &str) -> String {
    for n in 0..100 {
        let name = format!("{beginning}{n}");
        if cluster.owner(cluster.slot(&name).await).await == shard {
            return name;
        }
    }
    panic!("no name on shard {shard}");
}

/// A Cluster whose last shard contains nothing that nodes have in common, and which keeps working with two
/// shards.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    for node in &cluster.nodes {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    }
    for tag in COMMON {
        cluster.move_slot(cluster.slot(tag).await, 0).await;
    }
    cluster
}

/// Whatever names the nodes chose, nothing under these names is on that shard either.
async fn move_nodes(cluster: &Cluster) {
    let names = cluster.nodes[0].command(&["ZRANGE", "switchyard:{/nodes}:leases", "0", "-1"]).await;
    for name in names.lines() {
        cluster.move_slot(cluster.slot(&format!("/node-{name}")).await, 0).await;
    }
}

/// A master does not answer, and a client whose session is on it leaves. Regression: all writes were in one
/// batch, and its first error failed all of them. From then on every `subscribe` and every new client got
/// `store_unavailable`.
#[tokio::test]
async fn a_shard_that_does_not_answer_affects_only_what_is_on_it() {
    let cluster = cluster().await;
    let (far, near) = (Principal::on(&cluster, ALONE).await, Principal::on(&cluster, 1).await);
    let extra = far.configured() + &near.configured() + "[tier.few]\nconnections = 10";
    let node = Node::start(&cluster.url(), &extra).await;
    move_nodes(&cluster).await;
    let rooms = [named(&cluster, 0, "room-a").await, named(&cluster, 1, "room-b").await];
    let far_room = named(&cluster, ALONE, "room-c").await;
    let (leaving, staying) =
        (far.client(&node).await.expect("let in"), near.client(&node).await.expect("let in"));
    leaving.subscribe(json!(rooms)).await;
    cluster.nodes[ALONE].pause().await;
    leaving.cut();
    for _ in 0..4 {
        for room in &rooms {
            let asked = Instant::now();
            staying.subscribe(json!([room])).await;
            let left = staying.ask(json!({"type": "unsubscribe", "rooms": [room]})).await;
            assert_eq!(left["results"][0]["status"], "unsubscribed", "{left}");
            assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
        }
        // Including next to a room that is unavailable.
        let answer = staying.ask(json!({"type": "subscribe", "rooms": [far_room, rooms[0]]})).await;
        assert_eq!(answer["results"][0]["error"]["code"], "store_unavailable", "{answer}");
        assert_eq!(answer["results"][1]["status"], "subscribed", "{answer}");
        let new = near.client(&node).await.unwrap_or_else(|refused| panic!("a new client: {refused}"));
        new.subscribe(json!(rooms)).await;
        staying.ask(json!({"type": "unsubscribe", "rooms": [rooms[0]]})).await;
    }
    let refused = far.client(&node).await.err().expect("its shard is away");
    assert_eq!(refused["error"]["code"], "store_unavailable", "{refused}");
    // An operator who looks at the node is told that something is wrong.
    eventually("a reason", async || {
        let (_, body) = node.call("GET", "/readyz", "").await;
        let readiness: Value = serde_json::from_str(&body).expect("JSON");
        readiness["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()).then_some(())
    })
    .await;
    cluster.nodes[ALONE].resume().await;
    eventually_within(Duration::from_secs(20), "all of it served", async || {
        let back = far.client(&node).await.ok()?;
        let answer = back.ask(json!({"type": "subscribe", "rooms": [far_room]})).await;
        (answer["results"][0]["status"] == "subscribed" && node.is_ready().await).then_some(())
    })
    .await;
    staying.round_trip().await;
}

/// A shard returns empty. The list of nodes is on another shard, so no lease was lost. Regression: nobody
/// noticed for hours. Each connection is now checked once a minute.
#[tokio::test]
async fn a_single_shard_that_lost_its_data_is_repaired() {
    let cluster = cluster().await;
    let (forgotten, kept) = (Principal::on(&cluster, ALONE).await, Principal::on(&cluster, 1).await);
    let extra = forgotten.configured() + &kept.configured() + "[tier.few]\nconnections = 3";
    let url = cluster.url();
    let (one, other) = tokio::join!(Node::start(&url, &extra), Node::start(&url, &extra));
    move_nodes(&cluster).await;
    let (far_room, near_room) = (named(&cluster, ALONE, "room-a").await, named(&cluster, 1, "room-b").await);
    let rooms = json!([far_room, near_room]);
    let mut clients = vec![];
    for principal in [&forgotten, &kept] {
        for _ in 0..3 {
            let client = principal.client(&one).await.expect("let in");
            client.subscribe(rooms.clone()).await;
            clients.push(client);
        }
    }
    other.has_members(&far_room, 6).await;
    cluster.nodes[ALONE].command(&["FLUSHALL"]).await;
    // A minute, plus time for a busy machine.
    eventually_within(Duration::from_secs(80), "members of the room that was forgotten", async || {
        (other.members(&far_room).await == 6).then_some(())
    })
    .await;
    let counts = format!("switchyard:{{@{}}}:connections", forgotten.name);
    eventually_within(Duration::from_secs(80), "connections counted again", async || {
        (cluster.nodes[ALONE].command(&["HVALS", &counts]).await == "3").then_some(())
    })
    .await;
    for principal in [&forgotten, &kept] {
        let refused = principal.client(&other).await.err().expect("three connections of three");
        assert_eq!(refused["error"]["code"], "connection_limit", "{refused}");
    }
    for (principal, client) in [(&forgotten, &clients[0]), (&kept, &clients[3])] {
        assert_eq!(client.end(), None, "connections stay");
        let back = principal.resume(&other, &client.token()).await;
        assert_eq!(back.connected["resumed"], true, "{}", back.connected);
        assert_eq!(back.resumed(&near_room).expect("a room")["recovered"], true, "{}", back.connected);
        // The other room may have lost its messages.
        let far = back.resumed(&far_room).expect("a room");
        assert!(far["epoch"].is_string() && far["error"].is_null(), "{far}");
    }
    assert_eq!(other.members(&near_room).await, 6);
    assert!(Live::connect_with(&other.url, json!({"auth": {"apiKey": KEY}})).await.end().is_none());
}
