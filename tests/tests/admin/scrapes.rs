//! What Prometheus scrapes. A strict collector rejects the whole scrape if one line is invalid.

use serde_json::json;
use std::fs;
use switchyard_tests::{Client, Server, exposition, guest, plugin};

/// The file with two names of the same length swapped.
fn exchanged(bytes: &[u8], one: &[u8], two: &[u8]) -> Vec<u8> {
    assert_eq!(one.len(), two.len());
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at + one.len() <= bytes.len() {
        let name = &mut bytes[at..at + one.len()];
        if name == one {
            name.copy_from_slice(two);
        } else if name == two {
            name.copy_from_slice(one);
        } else {
            at += 1;
            continue;
        }
        at += one.len();
    }
    bytes
}

#[tokio::test]
async fn no_plugin_can_make_a_scrape_invalid() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = exchanged(&fs::read(guest("meters")).expect("a file"), b"shared_one", b"shared_two");
    fs::write(folder.path().join("other.wasm"), other).expect("a file");
    let other = "[[plugin]]\nname = \"other\"\nfile = \"other.wasm\"\nrooms = [\"other\"]\n";
    let plugins = plugin("meters", "[\"meters\"]", "{}") + other + &plugin("hostile", "[\"hostile\"]", "{}");
    let server = Server::start_in(folder, &format!("{}{plugins}", Server::keys())).await;
    let mut client = Client::connect(&server).await;
    for room in ["meters", "other", "hostile"] {
        client.publish(room, json!(1)).await;
        client.publish(room, json!(2)).await;
    }
    let (_, text) = server.call("GET", "/metrics", None, "").await;
    let families = exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let of = |family: &str, plugin: &str| {
        let family = families.get(family).unwrap_or_else(|| panic!("no {family}"));
        let samples = family.samples.iter().filter(|sample| sample.labels["plugin"] == plugin);
        samples.map(|sample| (sample.name.clone(), sample.value)).collect::<Vec<_>>()
    };
    // The first plugin in the configuration decides the kind of a metric.
    assert_eq!(
        of("switchyard_guest_shared_one", "meters"),
        [("switchyard_guest_shared_one_total".into(), 2.0)]
    );
    assert_eq!(of("switchyard_guest_shared_one", "other"), []);
    let left_out = of("switchyard_plugin_metrics_left_out", "other");
    assert_eq!(left_out, [("switchyard_plugin_metrics_left_out".into(), 4.0)]);
    let counted = of("switchyard_guest_shared_two", "meters");
    let count = counted.iter().find(|(name, _)| name.ends_with("_count")).expect("a count");
    assert_eq!(count.1, 6.0, "what is negative or no number is not observed: {counted:?}");
    assert!(!of("switchyard_guest_calls", "hostile").is_empty(), "others are shown");
}

#[tokio::test]
async fn a_scrape_is_valid_from_the_start() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["prices"])).await;
    client.publish("prices", json!(1)).await;
    let (_, text) = server.call("GET", "/metrics", None, "").await;
    exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
}
