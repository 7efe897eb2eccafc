//! What operators see of the versions of a plugin: metrics that go on through a change of version, how versions
//! were loaded and withdrawn, and candidates apart from the active version.

use serde_json::{Value, json};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use switchyard_tests::{Client, KEY, MORE_KEYS, Server, eventually, exposition, guest, plugin};

const PATH: &str = "/v1/plugins/hostile";

/// The guest `hostile` with a custom section: one of many files with the same behaviour.
fn version(n: u8) -> Vec<u8> {
    let mut module = fs::read(guest("hostile")).expect("a guest");
    module.extend([0, 3, 1, b'n', n]);
    module
}

async fn start() -> Server {
    let plugin = plugin("hostile", r#"["bad:*"]"#, "{}");
    Server::start_with(&format!("{}{}{plugin}", Server::keys(), Server::more_keys())).await
}

/// The sum of the samples of a family whose labels contain these.
async fn sum(server: &Server, family: &str, labels: &[(&str, &str)]) -> f64 {
    let (_, text) = server.call("GET", "/metrics", None, "").await;
    let families = exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let family = families.get(family).unwrap_or_else(|| panic!("no {family} in {text}"));
    let has = |sample: &exposition::Sample| {
        labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|found| found == value))
    };
    family.samples.iter().filter(|sample| has(sample)).map(|sample| sample.value).sum()
}

async fn call(server: &Server, method: &str, path: &str, body: impl AsRef<[u8]>) -> (u16, Value) {
    let (status, body) = server.call(method, &format!("{PATH}{path}"), Some(KEY), body).await;
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// Makes the plugin fail once for this principal.
async fn fail(server: &Server, key: &str) {
    let mut client = Client::connect_as(server, key).await;
    let answer = client.ask(json!({"type": "publish", "room": "bad:a", "data": {"do": "panic"}})).await;
    assert_eq!(answer["error"]["code"], "plugin_failed", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_count_falls_or_is_lost_when_versions_are_replaced_under_load() {
    let server = start().await;
    let (stop, mut client) = (Arc::new(AtomicBool::new(false)), Client::connect(&server).await);
    let publishing = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut published = 0.0;
            while !stop.load(Ordering::Relaxed) {
                client.publish("bad:a", json!({})).await;
                published += 1.0;
            }
            published
        }
    });
    let (calls, own) = ("switchyard_plugin_calls", "switchyard_guest_calls");
    let publishes = &[("plugin", "hostile"), ("hook", "publish.check")];
    let mut last = (0.0, 0.0);
    for n in 1..=3 {
        let (status, body) = call(&server, "PUT", "", version(n)).await;
        assert_eq!(status, 200, "{body}");
        let now = (sum(&server, calls, publishes).await, sum(&server, own, &[("plugin", "hostile")]).await);
        assert!(now.0 >= last.0 && now.1 >= last.1, "{now:?} after {last:?}");
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    let published = publishing.await.expect("no panic");
    assert_eq!(sum(&server, calls, publishes).await, published, "of all versions together");
    let own = sum(&server, own, &[("plugin", "hostile")]).await;
    let instances = sum(&server, "switchyard_plugin_instances", &[("plugin", "hostile")]).await;
    assert!(instances >= 4.0 && own >= published + instances, "{own}, {published}, {instances}");
    let plugin = server.get(PATH).await;
    let sha256 = plugin["plugin"]["sha256"].as_str().expect("a digest");
    let active = sum(&server, calls, &[("hook", "publish.check"), ("sha256", &sha256[..12])]).await;
    assert!(active < published, "earlier versions keep their own series");
}

#[tokio::test]
async fn loads_and_withdrawals_are_counted_by_how_they_came_about() {
    let server = start().await;
    let loads = async |source: &str, result: &str| {
        let labels = [("plugin", "hostile"), ("source", source), ("result", result)];
        sum(&server, "switchyard_plugin_loads", &labels).await
    };
    let withdrawals = async |kind| {
        sum(&server, "switchyard_plugin_withdrawals", &[("plugin", "hostile"), ("kind", kind)]).await
    };
    assert_eq!(loads("file", "active").await, 1.0);
    for (body, status) in [(version(1), 200), (version(1), 200), (b"no Wasm".to_vec(), 400)] {
        assert_eq!(call(&server, "PUT", "", body).await.0, status);
    }
    let counted =
        (loads("load", "active").await, loads("load", "unchanged").await, loads("load", "failed").await);
    assert_eq!(counted, (1.0, 1.0, 1.0));
    // An operator rolls back, and loads another version, which fails for three principals.
    assert_eq!(call(&server, "POST", "/rollback", "").await.0, 200);
    assert_eq!((loads("rollback", "active").await, withdrawals("rollback").await), (1.0, 1.0));
    assert_eq!(call(&server, "PUT", "", version(2)).await.0, 200);
    for key in [KEY, KEY, KEY, MORE_KEYS[0], MORE_KEYS[1]] {
        fail(&server, key).await;
    }
    eventually("a withdrawal", async || (withdrawals("probation").await == 1.0).then_some(())).await;
    assert_eq!(withdrawals("rollback").await, 1.0);
}

#[tokio::test]
async fn what_a_candidate_does_is_never_counted_as_the_active_version() {
    let server = start().await;
    let (status, body) =
        call(&server, "PUT", "", fs::read(guest("threshold_filter")).expect("a guest")).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = call(&server, "PUT", "/shadow", version(1)).await;
    assert_eq!(status, 200, "{body}");
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["bad:subscribe.panic"])).await;
    let failed = "switchyard_plugin_candidate_failures";
    eventually("a failure", async || {
        (sum(&server, failed, &[("plugin", "hostile"), ("kind", "panic")]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(sum(&server, "switchyard_plugin_failures", &[("plugin", "hostile")]).await, 0.0);
    let plugin = server.get(PATH).await;
    assert_eq!(plugin["failures"], json!({}), "{plugin}");
    assert!(plugin["shadow"]["status"]["failures"]["panic"].as_u64() >= Some(1), "{plugin}");
    // Its series outlive it.
    assert_eq!(call(&server, "DELETE", "/shadow", "").await.0, 200);
    assert!(sum(&server, failed, &[("plugin", "hostile")]).await >= 1.0);
}

#[tokio::test]
async fn the_settings_of_a_plugin_are_known_by_a_digest() {
    let server = start().await;
    let digest = async || {
        let plugin = server.get(PATH).await;
        let digest = plugin["config_digest"].as_str().unwrap_or_else(|| panic!("{plugin}")).to_owned();
        assert_eq!(digest.len(), 64);
        digest
    };
    let first = digest().await;
    let shown = async |digest: &str| {
        let labels = [("plugin", "hostile"), ("digest", &digest[..12])];
        sum(&server, "switchyard_plugin_config_info", &labels).await
    };
    assert_eq!(shown(&first).await, 1.0);
    let changed = plugin("hostile", r#"["bad:*"]"#, r#"{ deliver = "refuse" }"#);
    server.reconfigure(&format!("{}{}{changed}", Server::keys(), Server::more_keys()));
    let second =
        eventually("another configuration", async || Some(digest().await).filter(|now| *now != first)).await;
    assert_eq!((shown(&first).await, shown(&second).await), (0.0, 1.0));
    let loads = [("plugin", "hostile"), ("source", "config"), ("result", "active")];
    eventually("a restart", async || {
        (sum(&server, "switchyard_plugin_loads", &loads).await == 1.0).then_some(())
    })
    .await;
}

/// The reason once had the key of the number of calls that were not made.
#[tokio::test]
async fn a_configuration_that_the_plugin_rejects_is_shown_with_the_reason() {
    let server = start().await;
    let bad = plugin("hostile", r#"["bad:*"]"#, r#"{ init = "refuse" }"#);
    server.reconfigure(&format!("{}{}{bad}", Server::keys(), Server::more_keys()));
    let reason = eventually("the reason", async || {
        server.get(PATH).await["config_refused"].as_str().map(str::to_owned)
    })
    .await;
    assert!(reason.contains("the config requests an error"), "{reason}");
    let (_, body) = server.call("GET", PATH, Some(KEY), "").await;
    assert_eq!(body.matches("\"refused\":").count(), 1, "{body}");
    let loads = [("plugin", "hostile"), ("source", "config"), ("result", "failed")];
    assert_eq!(sum(&server, "switchyard_plugin_loads", &loads).await, 1.0);
}

#[tokio::test]
async fn the_principals_that_are_quarantined_now_are_counted() {
    let server = start().await;
    let quarantined = async || {
        sum(&server, "switchyard_plugin_quarantined_principals", &[("plugin", "hostile")]).await as u64
    };
    assert_eq!(quarantined().await, 0);
    // Each quarantine is longer than the one before.
    eventually("a quarantine", async || {
        fail(&server, KEY).await;
        (quarantined().await == 1).then_some(())
    })
    .await;
    // The number falls when it is over, whether the principal comes back or not.
    eventually("its end", async || (quarantined().await == 0).then_some(())).await;
    let plugin = server.get(PATH).await;
    assert_eq!(plugin["quarantined_principals"], 0, "{plugin}");
    assert!(plugin["principals_quarantined"].as_u64() >= Some(1), "{plugin}");
}
