//! Health, metrics, and the description of the HTTP API.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use switchyard_tests::{Answer, Client, KEY, Server, guest};

#[tokio::test]
async fn health_reports_the_actual_state() {
    let server = Server::start("").await;
    assert_eq!(server.call("GET", "/livez", None, "").await.0, 200);
    let (status, body) = server.call("GET", "/readyz", None, "").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).expect("JSON");
}

/// Name, labels and value of a sample.
fn sample(line: &str) -> (String, String, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
        None => (series, ""),
    };
    assert!(
        name.starts_with("switchyard_") && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
        "{line}"
    );
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        assert!(label.contains("=\""), "{line}");
    }
    (name.to_owned(), labels.to_owned(), value)
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_count_events() {
    let file = guest("threshold_filter");
    let plugin = format!(
        "[[plugin]]\nname = \"thresholds\"\nfile = \"{}\"\nrooms = [\"tvl\"]\n\
         [[plugin]]\nname = \"gone\"\nfile = \"gone.wasm\"\nrooms = [\"gone\"]",
        file.display()
    );
    let server = Server::start(&plugin).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!([{"room": "tvl", "filter": {"minChange": 1}}])).await;
    Client::connect(&server).await.publish("tvl", json!({"change": 2})).await;
    client.expect("message").await;
    client.refused(json!({"type": "publish", "room": "a b", "data": 1})).await;
    Client::rejected_connect(&server.url, json!({"type": "ping"})).await;
    let address = server.admin.strip_prefix("http://").expect("HTTP");
    let answer = Answer::of(address, "GET", "/metrics", "", b"").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-type: text/plain")
            || answer.head.contains("application/openmetrics-text")
    );
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut finished = HashSet::new();
    let mut current = String::new();
    for line in answer.body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("TYPE"), Some(family), Some(kind)) => {
                    assert!(
                        ["counter", "gauge", "histogram", "summary", "unknown", "info"].contains(&kind),
                        "{line}"
                    );
                    assert!(types.insert(family.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
                }
                (Some("HELP" | "UNIT"), Some(_), Some(_)) | (Some("EOF"), None, None) => {}
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, labels, value) = sample(line);
        let family =
            types.keys().filter(|family| name.starts_with(*family)).max_by_key(|family| family.len());
        let family = family.unwrap_or_else(|| panic!("no type before {line}")).clone();
        if family != current {
            assert!(finished.insert(family.clone()), "{family} is not in one piece");
            current = family.clone();
        }
        if types[&family] == "counter" {
            assert!(name.ends_with("_total") || answer.head.contains("text/plain"), "{line}");
        }
        assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
    }
    assert!(answer.body.ends_with("# EOF\n") || answer.head.contains("text/plain"));
    let value = |name: &str, labels: &str| {
        let found = samples.iter().find(|((n, l), _)| n == name && l.contains(labels));
        *found.unwrap_or_else(|| panic!("no {name} {labels} in {samples:?}")).1
    };
    assert!(value("switchyard_connections", "") >= 1.0);
    assert!(value("switchyard_connections_opened_total", "") >= 2.0);
    assert_eq!(value("switchyard_messages_published_total", ""), 1.0);
    assert_eq!(value("switchyard_deliveries_total", ""), 1.0);
    assert_eq!(value("switchyard_plugin_active", "thresholds"), 1.0);
    assert_eq!(value("switchyard_plugin_active", "gone"), 0.0);
    assert!(value("switchyard_plugin_calls_total", "thresholds") >= 1.0);
    assert_eq!(value("switchyard_errors_total", "room_invalid"), 1.0, "every error answer is counted");
    assert_eq!(value("switchyard_errors_total", "auth_required"), 1.0, "before connect too");
    assert_eq!(value("switchyard_connections_closed_total", "4401"), 1.0);
}

/// The routes in the code.
fn routes() -> BTreeSet<String> {
    let source = include_str!("../../../host/server/src/admin.rs");
    let routes =
        source.split(".route(").skip(1).map(|rest| rest.split('"').nth(1).expect("a path").to_owned());
    let routes: BTreeSet<_> = routes.collect();
    assert!(routes.len() > 10, "{routes:?}");
    routes
}

#[tokio::test]
async fn the_api_description_lists_every_route_and_each_route_answers() {
    let server = Server::start("").await;
    let (status, text) = server.call("GET", "/openapi.json", None, "").await;
    assert_eq!(status, 200);
    let api: Value = serde_json::from_str(&text).expect("JSON");
    assert!(api["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{}", api["openapi"]);
    assert!(api["info"]["title"].is_string() && api["info"]["version"].is_string());
    let paths = api["paths"].as_object().expect("paths");
    assert_eq!(paths.keys().cloned().collect::<BTreeSet<_>>(), routes(), "described is what is routed");
    let promised = [
        ("/v1/publish", "post"),
        ("/v1/broadcast", "post"),
        ("/v1/rooms", "get"),
        ("/v1/rooms/{room}", "get"),
        ("/v1/rooms/{room}/history", "get"),
        ("/v1/rooms/{room}/messages/{offset}/receipt", "get"),
        ("/v1/connections", "get"),
        ("/v1/connections/{id}", "get"),
        ("/v1/connections/{id}", "delete"),
        ("/v1/plugins", "get"),
        ("/v1/plugins/{name}", "put"),
        ("/v1/plugins/{name}/rollback", "post"),
        ("/metrics", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
    ];
    let mut missing = vec![];
    for (path, method) in promised {
        if paths.get(path).and_then(|path| path.get(method)).is_none() {
            missing.push(format!("{method} {path}"));
        }
    }
    Client::connect(&server).await.publish("prices", json!(1)).await;
    for (path, calls) in paths {
        for (method, call) in calls.as_object().expect("calls") {
            if !["get", "post", "put", "delete", "patch"].contains(&&**method) {
                continue;
            }
            assert!(call["responses"].is_object(), "{method} {path}");
            let filled = path
                .replace("{room}", "prices")
                .replace("{offset}", "1")
                .replace("{id}", "none")
                .replace("{name}", "none");
            let (status, body) = server.call(&method.to_uppercase(), &filled, Some(KEY), "").await;
            assert_ne!(status, 405, "{method} {path}: {body}");
            assert!(status < 500, "{method} {path}: {status} {body}");
            let is_described = |body: &str| body.contains("/openapi.json");
            assert!(!(status == 404 && is_described(&body)), "{method} {path} is not routed: {body}");
        }
    }
    check_references(&api, &api);
    assert!(missing.is_empty(), "not described: {missing:?}");
}

/// Every `$ref` must resolve.
fn check_references(api: &Value, within: &Value) {
    match within {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("$ref", Some(reference)) = (&**name, value.as_str()) {
                    let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
                    assert!(api.pointer(pointer).is_some(), "{reference} leads nowhere");
                }
                check_references(api, value);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| check_references(api, value)),
        _ => {}
    }
}
