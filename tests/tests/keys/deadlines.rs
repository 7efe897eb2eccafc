//! Keys end on time, whatever else the node is doing.

use super::SOME;
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};
use switchyard_tests::{Client, KEY, Node, Server, eventually, guest, replace_file};

const PATH: &str = "/v1/plugins/slow";
/// Its file does not exist yet. When it does, loading it takes 20 s and then fails.
const PLUGIN: &str = "[[plugin]]\nname = \"slow\"\nfile = \"plugin.wasm\"\nrooms = [\"slow\"]\n\
    config = { init = \"loop\" }\nbudget = { call = \"2s\" }\n";

async fn node() -> Node {
    Node::start("memory", PLUGIN).await
}

/// The same configuration, with more keys before the plugin.
fn configure(node: &Node, keys: &str) {
    let text = fs::read_to_string(node.folder().join("switchyard.toml")).expect("a configuration");
    let (before, _) = text.split_once("[[key]]").expect("keys");
    replace_file(&node.folder().join("switchyard.toml"), format!("{before}{}{keys}{PLUGIN}", Server::keys()));
}

async fn enters(node: &Node, key: &str) -> Client {
    eventually(key, async || Client::is_accepted(&node.url, key).await.then_some(())).await;
    Client::connect_at(&node.url, json!({"auth": {"apiKey": key}})).await
}

async fn is_loading(node: &Node) -> bool {
    node.get(PATH).await["state"] == "loading"
}

fn expiring(key: &str, at: SystemTime) -> String {
    Server::key(key, "short", SOME, &format!("expires = {}", humantime::format_rfc3339_millis(at)))
}

#[tokio::test]
async fn a_plugin_that_loads_slowly_keeps_no_key_alive() {
    let node = node().await;
    let at = SystemTime::now() + Duration::from_secs(4);
    let revoked = Server::key("sk_bad", "bad", SOME, "");
    configure(&node, &(expiring("sk_short", at) + &revoked));
    let (mut expires, mut is_revoked) = (enters(&node, "sk_short").await, enters(&node, "sk_bad").await);
    let mut stays = Client::connect_at(&node.url, json!({"auth": {"apiKey": KEY}})).await;
    replace_file(&node.folder().join("plugin.wasm"), fs::read(guest("hostile")).expect("a guest"));
    eventually("a plugin that is being loaded", async || is_loading(&node).await.then_some(())).await;

    assert_eq!(expires.expect("error").await["error"]["code"], "expired_key");
    assert_eq!(expires.closed().await.code, 4401);
    assert!(at.elapsed().expect("not too early") < Duration::from_secs(2), "{:?}", at.elapsed());

    let began = Instant::now();
    configure(&node, &Server::key("sk_new", "new", SOME, ""));
    assert_eq!(is_revoked.closed().await.code, 4410);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    enters(&node, "sk_new").await.round_trip().await;
    stays.round_trip().await;
    assert!(is_loading(&node).await, "all of that was while the plugin was being loaded");
}

#[tokio::test]
async fn a_configuration_that_is_constantly_rewritten_is_read_anyway() {
    let node = node().await;
    let at = SystemTime::now() + Duration::from_secs(6);
    configure(&node, &(expiring("sk_short", at) + &Server::key("sk_bad", "bad", SOME, "")));
    let (mut expires, mut is_revoked) = (enters(&node, "sk_short").await, enters(&node, "sk_bad").await);
    let began = Instant::now();
    let writes = async {
        loop {
            configure(&node, &expiring("sk_short", at));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let closes = async {
        assert_eq!(is_revoked.closed().await.code, 4410);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(expires.expect("error").await["error"]["code"], "expired_key");
        assert!(at.elapsed().expect("not too early") < Duration::from_secs(2), "{:?}", at.elapsed());
    };
    tokio::select! {
        () = writes => unreachable!("writing goes on"),
        () = closes => {}
    }
}

/// The key is revoked while a plugin decides whether its client may connect. At that time the client is not
/// in any list yet.
#[tokio::test]
async fn a_key_revoked_while_its_client_connects_admits_nobody() {
    let door = format!(
        "[[plugin]]\nname = \"door\"\nfile = \"{}\"\nrooms = [\"door\"]\n\
         config = {{ connect = \"loop\" }}\non_failure = \"allow\"\nbudget = {{ call = \"3s\" }}\n",
        guest("hostile").display()
    );
    let folder = Node::create_folder("memory", &(Server::key("sk_bad", "bad", SOME, "") + &door));
    let node = Node::start_in(folder).await;
    let mut client = Client::open(&*node.url).await;
    client.send(json!({"type": "connect", "auth": {"apiKey": "sk_bad"}})).await;
    let text = fs::read_to_string(node.folder().join("switchyard.toml")).expect("a configuration");
    let without = text.replace(&Server::key("sk_bad", "bad", SOME, ""), "");
    replace_file(&node.folder().join("switchyard.toml"), without);
    assert_eq!(client.closed().await.code, 4410, "{}", node.log());
}
