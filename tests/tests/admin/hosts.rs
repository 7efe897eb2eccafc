//! The host names under which a node answers, and how it shows clients' addresses.

use serde_json::json;
use switchyard_tests::{Answer, Client, KEY, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn asked_as(server: &Server, host: &str) -> u16 {
    let address = server.admin.strip_prefix("http://").expect("HTTP");
    let mut tcp = TcpStream::connect(address).await.expect("a listener");
    let head = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// A web page whose own host name now resolves to the node sends requests with that name.
#[tokio::test]
async fn a_foreign_page_cannot_read_through_its_own_host_name() {
    let server = Server::start("[admin]\nhosts = [\"Node1.example.org\"]").await;
    for host in
        ["127.0.0.1:9090", "[::1]:9090", "localhost:9090", "switchyard:9090", "node1.example.org:9090"]
    {
        assert_eq!(asked_as(&server, host).await, 200, "{host}");
    }
    for host in ["attacker.example", "attacker.example:9090", "127.0.0.1.attacker.example"] {
        assert_eq!(asked_as(&server, host).await, 403, "{host}");
    }
}

#[tokio::test]
async fn ipv4_clients_of_a_dual_stack_listener_have_an_ipv4_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        format!("[server]\nlisten = \"[::]:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{}", Server::keys());
    std::fs::write(folder.path().join("s.toml"), text).expect("a file");
    let process = switchyard_tests::Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let url = process.url.replace("[::]", "127.0.0.1");
    let mut client = Client::connect_at(&url, json!({"auth": {"apiKey": KEY}})).await;
    client.subscribe(json!(["prices", "trades"])).await;
    let shown = async || {
        let (_, body) = Answer::called(&process.admin, "GET", "/v1/connections", Some(KEY), "").await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        body["connections"][0].clone()
    };
    let remote = shown().await["remote"].as_str().expect("text").to_owned();
    assert!(remote.starts_with("127.0.0.1:"), "{remote}");
    let token = client.token();
    drop(client);
    let fields = json!({"auth": {"apiKey": KEY}, "session": token});
    let back = Client::connect_at(&url, fields).await;
    assert_eq!(back.connected["resumed"], true);
    switchyard_tests::eventually("the rooms of the resumed one", async || {
        (shown().await["rooms"] == 2 && shown().await["id"] == back.connected["connection"]).then_some(())
    })
    .await;
}
