//! Changes that are tried before they are made: a dry run of a reload, and a plugin that runs as a candidate.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_can_be_tried_before_it_is_made() {
    let redis = Redis::start().await;
    let thresholds = plugin("threshold_filter", r#"["tvl"]"#, "{}");
    let node = Node::start(&redis.url(), &thresholds).await;
    let member = Live::connect(&node.url).await;
    member.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let file = node.folder().join("switchyard.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    // A change that nobody has confirmed does nothing by itself.
    replace_file(&file, text.replace(&thresholds, ""));
    let (status, report) = call(&node, "POST", "/v1/reload?dry_run=true", "").await;
    assert_eq!((status, &report["changes"]), (200, &json!(["plugin 'threshold_filter'"])), "{report}");
    assert_eq!(report["losses"], json!(["remove the only plugin, 'threshold_filter'"]));
    let preview = &report["preview"];
    assert_eq!(
        (&preview["ungoverned"], &preview["members"], &preview["removed"]),
        (&json!(["tvl"]), &json!(1), &json!(1))
    );
    assert_eq!(preview["refused"][0]["filter"], r#"{"minChange":5}"#);
    let environment = [("SWITCHYARD_KEY", KEY), ("SWITCHYARD_ADMIN", &*node.process.admin)];
    let output = switchyard_tests::run(node.folder(), &["check", "--diff"], &environment).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("tvl  threshold_filter -> no plugin  1 member, 1 removed"), "{shown}");
    assert!(
        shown.contains("needs to be confirmed, with a second SIGHUP: it would remove the only plugin"),
        "{shown}"
    );
    assert_eq!(active(&node).await, ["threshold_filter"]);

    for _ in 0..2 {
        let (status, refused) = call(&node, "POST", "/v1/reload", "").await;
        assert_eq!(status, 409, "{refused}");
        assert!(error(&refused).contains("to confirm, repeat the call with confirm=true"), "{refused}");
    }
    let (status, report) = call(&node, "POST", "/v1/reload?confirm=true", "").await;
    assert_eq!((status, &report["changes"]), (200, &json!(["plugin 'threshold_filter'"])), "{report}");
    let removed = member.wait_for_frame("removed", |frame| frame["type"] == "unsubscribed").await;
    assert_eq!(removed["results"][0]["error"]["code"], "filter_invalid", "{removed}");
}

/// Its rooms stay as they are until it is promoted, whoever governs them.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_runs_as_a_candidate_before_it_is_added() {
    let redis = Redis::start().await;
    let thresholds = plugin("threshold_filter", r#"["tvl:governed"]"#, "{}");
    let one = Node::start(&redis.url(), &thresholds).await;
    let two = Node::start(&redis.url(), &thresholds).await;
    let file = guest("protocol_rooms").to_string_lossy().into_owned();
    let config = r#"{"protocols":["curve"],"chains":["base"]}"#;
    let add =
        ["add", "protocols", &*file, "--rooms", "*:*", "--before", "threshold_filter", "--config", config];
    let answer = run_command(&one, &[&add[..], &["--shadow"]].concat()).await;
    assert!(answer.starts_with("protocols  runs as a candidate"), "{answer}");
    let answer = run_command(&one, &["list"]).await;
    assert!(answer.contains("protocols  candidate  *:*"), "{answer}");
    let (_, list) = call(&two, "GET", "/v1/plugins", "").await;
    assert_eq!(list["candidates"], Value::Null, "it runs on the node that was asked");

    let client = Live::connect(&one.url).await;
    client.subscribe(json!(["curve:base", "curve:nowhere", "tvl:governed", "other"])).await;
    let published = client.ask(json!({"type": "publish", "room": "curve:nowhere", "data": 1})).await;
    assert_eq!(published["type"], "published", "{published}");
    let compared = eventually("the comparison", async || {
        let (_, shadow) = call(&one, "GET", "/v1/plugins/protocols/shadow", "").await;
        let count = |hook: &str| {
            let count = |key: &str| shadow["hooks"][hook][key].as_u64().unwrap_or_default();
            (count("same"), count("different"))
        };
        (count("subscribe").0 + count("subscribe").1 == 3).then_some((count("subscribe"), shadow))
    })
    .await;
    assert_eq!(compared.0, (1, 2), "{}", compared.1);
    let samples = compared.1["hooks"]["subscribe"]["samples"].as_array().expect("samples");
    for room in ["curve:nowhere", "tvl:governed"] {
        let sample = samples.iter().find(|sample| sample["asked"]["room"] == room).expect("a sample");
        assert_eq!(sample["active"], "allowed", "{sample}");
        assert_eq!(sample["candidate"]["reject"], "invalid", "{sample}");
    }
    let answer = run_command(&one, &["diff", "protocols"]).await;
    assert!(answer.contains("curve:nowhere"), "{answer}");
    let (_, room) = call(&one, "GET", "/v1/rooms/curve:nowhere", "").await;
    assert_eq!(room["governor"], Value::Null, "{room}");

    let answer = run_command(&one, &["drop", "protocols"]).await;
    assert!(answer.starts_with("protocols  the candidate is dropped"), "{answer}");
    let (status, _) = call(&one, "GET", "/v1/plugins/protocols/shadow", "").await;
    assert_eq!(status, 404);
    run_command(&one, &[&add[..], &["--shadow"]].concat()).await;
    run_command(&one, &["promote", "protocols"]).await;
    for node in [&one, &two] {
        has(node, &["threshold_filter", "protocols"]).await;
        let (_, list) = call(node, "GET", "/v1/plugins", "").await;
        assert_eq!(list["candidates"], Value::Null, "{list}");
    }
    let left = client.wait_for_frame("removed", |frame| frame["type"] == "unsubscribed").await;
    assert_eq!(left["results"][0]["status"], "removed", "{left}");
    // A plugin that is there has candidates of another kind.
    let (status, refused) = put_slot(&one, "protocols", "?shadow=true", json!({"rooms": ["*:*"]})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(error(&refused).contains("plugin load --shadow"), "{refused}");
}
