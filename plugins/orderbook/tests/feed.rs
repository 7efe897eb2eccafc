//! Publishing and filtering a feed of order books and trades.

use orderbook::Orderbook;
use serde_json::json;
use switchyard_sdk::testing::{Harness, counted};
use switchyard_sdk::{Code, Plan, Verdict};

// In the format of the recorded feed.
const ETH: &str = r#"{"offset":"2693988240","bids":[["4215.5","182.601"],["4214","47.861"],["4213.2","0"]],"asks":[["4217.8","13.34"]]}"#;
const TRADE: &str = r#"{"market":"ETH-USD","size":"0.1","side":"BUY","price":"4215.6","createdAt":"2021-10-28T18:03:51.833Z"}"#;

fn publish(plugin: &Harness<Orderbook>, event: &str, data: &str) -> Result<Verdict, switchyard_sdk::Reject> {
    plugin.publish("feed", "dydx:eth-usd", event, data)
}

fn replaced(verdict: Verdict) -> String {
    let Verdict::Replace(data) = verdict else { panic!("expected a replacement, got {verdict:?}") };
    String::from_utf8(data).unwrap()
}

#[test]
fn a_message_with_nothing_to_cut_passes_unchanged() {
    let plugin = Harness::<Orderbook>::new(json!({})).unwrap();
    for (event, data) in
        [("orderbook", ETH), ("trade", TRADE), ("trade", "null"), ("", "7"), ("status", "{}")]
    {
        assert_eq!(publish(&plugin, event, data).unwrap(), Verdict::Pass);
    }
    let plugin = Harness::<Orderbook>::new(json!({ "max_depth": 2 })).unwrap();
    assert_eq!(
        publish(&plugin, "orderbook", ETH).unwrap(),
        Verdict::Pass,
        "a removal does not count as depth"
    );
}

#[test]
fn a_cut_keeps_the_best_levels_every_removal_and_every_other_byte() {
    let plugin = Harness::<Orderbook>::new(json!({ "max_depth": 1 })).unwrap();
    assert_eq!(
        replaced(publish(&plugin, "orderbook", ETH).unwrap()),
        r#"{"offset":"2693988240","bids":[["4215.5","182.601"],["4213.2","0"]],"asks":[["4217.8","13.34"]]}"#
    );
    // Asks first, spaces, worst price first, more digits than a float has, an unknown field with brackets.
    let unusual = r#"{ "asks" : [ ["2", "1"], [ "1.0000000000000000000001" , "1.10" ] ], "x": "[]]", "bids": [["7","0.0"],["8",1],["9","3"]] }"#;
    assert_eq!(
        replaced(publish(&plugin, "orderbook", unusual).unwrap()),
        r#"{ "asks" : [[ "1.0000000000000000000001" , "1.10" ]], "x": "[]]", "bids": [["7","0.0"],["9","3"]] }"#
    );
    assert_eq!(counted(0), 3);
}

#[test]
fn the_reject_of_a_malformed_book_names_the_field() {
    let plugin = Harness::<Orderbook>::new(json!({})).unwrap();
    for (data, reason) in [
        (r#"{"bids":[]}"#, "data: missing field `asks`"),
        (r#"{"bids":[],"asks":{}}"#, "data.asks: invalid type: map, expected a list"),
        (
            r#"{"bids":[["1","2"],["1","many"]],"asks":[]}"#,
            r#"data.bids[1][1]: invalid value: string "many", expected a decimal of 0 or more, such as "13.34""#,
        ),
        (
            r#"{"bids":[["inf","2"]],"asks":[]}"#,
            r#"data.bids[0][0]: invalid value: string "inf", expected a decimal of 0 or more, such as "13.34""#,
        ),
        (r#"{"bids":[],"asks":[["1"]]}"#, "data.asks[0]: invalid length 1, expected a level: [price, size]"),
        ("[[],[]]", r#"data must be a book, {"bids": [...], "asks": [...]}, got a list"#),
        ("null", r#"data: invalid type: null, expected a book: {"bids": [...], "asks": [...]}"#),
    ] {
        let reject = publish(&plugin, "orderbook", data).unwrap_err();
        assert_eq!((reject.code, reject.reason.as_str()), (Code::Invalid, reason));
    }
    assert_eq!(counted(1), 7);
}

#[test]
fn filters_select_books_and_trades_by_market_and_size() {
    let plugin = Harness::<Orderbook>::new(json!({})).unwrap();
    let passes =
        |filter: serde_json::Value, room, event, data| plugin.delivers(filter, room, event, data).unwrap();
    for (filter, book, trade) in [
        (json!({}), true, true),
        (json!({ "markets": ["ETH-USD", "crv-usd"] }), true, true),
        (json!({ "markets": ["crv-usd"] }), false, false),
        (json!({ "markets": [] }), false, false),
        (json!({ "minSize": 182.6 }), true, false),
        (json!({ "minSize": 0.1 }), true, true),
        (json!({ "minSize": 183, "markets": ["eth-usd"] }), false, false),
    ] {
        assert_eq!(passes(filter.clone(), "dydx:eth-usd", "orderbook", ETH), book, "{filter}");
        assert_eq!(passes(filter.clone(), "dydx:eth-usd", "trade", TRADE), trade, "{filter}");
        assert_eq!(passes(filter.clone(), "trades", "trade", TRADE), trade, "{filter}");
    }
    let eth = json!({ "markets": ["eth-usd"] });
    assert!(passes(eth.clone(), "dydx:eth-usd", "status", r#""halted""#), "the room's market");
    assert!(!passes(json!({ "minSize": 0 }), "dydx:eth-usd", "status", r#""halted""#), "it has no size");
    assert!(!passes(eth, "dydx:eth-usd", "orderbook", r#"{"bids":7}"#), "not a book");
}

#[test]
fn an_invalid_field_hides_a_trade_only_from_filters_on_that_field() {
    let plugin = Harness::<Orderbook>::new(json!({})).unwrap();
    let passes =
        |filter: serde_json::Value, data: &str| plugin.delivers(filter, "trades", "trade", data).unwrap();
    let (market, size) = (json!({ "markets": ["eth-usd"] }), json!({ "minSize": 0 }));
    for invalid in [r#""abc""#, r#"".5""#, r#""""#, "null", "-1", "[1]", "{}", "true", r#"1,"size":"x""#] {
        let trade = format!(r#"{{"market":"ETH-USD","size":{invalid}}}"#);
        assert!(passes(market.clone(), &trade), "{trade}");
        assert!(!passes(size.clone(), &trade), "{trade}");
    }
    for invalid in ["7", "null", "[]", r#""x","market":{}"#] {
        let trade = format!(r#"{{"size":1,"market":{invalid}}}"#);
        assert!(passes(size.clone(), &trade) && !passes(market.clone(), &trade), "{trade}");
    }
    assert!(
        passes(market, r#"{"size":"x","size":"2","market":"crv-usd","market":"eth-usd"}"#),
        "the last value of a repeated field counts"
    );
}

#[test]
fn sizes_and_prices_are_compared_exactly() {
    let plugin = Harness::<Orderbook>::new(json!({ "max_depth": 1 })).unwrap();
    let filter: serde_json::Value = serde_json::from_str(r#"{"minSize":9007199254740993}"#).unwrap();
    for (size, passes) in
        [("9007199254740992", false), ("9007199254740993", true), ("9007199254740993.0000001", true)]
    {
        for written in [size.to_owned(), format!("\"{size}\"")] {
            let trade = format!(r#"{{"market":"eth-usd","size":{written}}}"#);
            assert_eq!(plugin.delivers(&filter, "trades", "trade", &trade).unwrap(), passes, "{trade}");
        }
    }
    let book = r#"{"bids":[["9007199254740992","1"],["9007199254740993","2"]],"asks":[["1.00000000000000000002","1"],["1.00000000000000000001","2"]]}"#;
    assert_eq!(
        replaced(publish(&plugin, "orderbook", book).unwrap()),
        r#"{"bids":[["9007199254740993","2"]],"asks":[["1.00000000000000000001","2"]]}"#
    );
}

#[test]
fn equal_filters_have_one_canonical_form_and_errors_name_the_field() {
    let plugin = Harness::<Orderbook>::new(json!({})).unwrap();
    for same in [
        json!({ "minSize": 5, "markets": ["UNI-USD", "eth-usd"] }),
        json!({ "markets": ["eth-usd", "uni-usd", "Eth-Usd"], "minSize": 5.0 }),
    ] {
        assert_eq!(plugin.canonical(same).unwrap(), r#"{"markets":["eth-usd","uni-usd"],"minSize":5.0}"#);
    }
    assert_eq!(plugin.compile(1, json!({})), Ok(Plan::All));
    for (filter, error) in [
        (json!({ "minSize": "5" }), r#"filter.minSize: invalid type: string "5", expected a number"#),
        (json!({ "minSize": -1 }), "filter: minSize must be 0 or more, got -1"),
        (json!({ "market": "eth-usd" }), "filter: unknown field `market`, expected `markets` or `minSize`"),
    ] {
        assert_eq!(plugin.canonical(filter).unwrap_err().reason, error);
    }
    let error = Harness::<Orderbook>::new(json!({ "max_depth": 0 })).err();
    assert_eq!(error.as_deref(), Some("config.max_depth must be at least 1, got 0"));
}
