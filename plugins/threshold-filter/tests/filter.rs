//! Filters on events, their canonical form and their errors.

use serde_json::{Value, json};
use switchyard_sdk::Plan;
use switchyard_sdk::testing::Harness;
use threshold_filter::ThresholdFilter;

fn delivers(plugin: &Harness<ThresholdFilter>, filter: &Value, data: &str) -> bool {
    plugin.delivers(filter, "tvl_changes", "tvl_change", data).unwrap()
}

#[test]
fn an_event_passes_if_it_satisfies_every_field_and_any_entry_of_a_list() {
    let plugin = Harness::<ThresholdFilter>::new(json!({})).unwrap();
    let event = r#"{"protocol":"Aave-V3","chain":"ethereum","change":-0.08,"value":"1250000.5","tags":[{"chain":"x"}]}"#;
    for (filter, passes) in [
        (json!({}), true),
        (json!({ "minChange": 0.08 }), true),
        (json!({ "minChange": 0.081 }), false),
        (json!({ "minValue": 1_250_000 }), true),
        (json!({ "minValue": 1_250_001 }), false),
        (json!({ "chains": ["base", "Ethereum"] }), true),
        (json!({ "chains": ["base"] }), false),
        (json!({ "protocols": ["aave-v3"], "chains": ["ethereum"], "minChange": 0.05 }), true),
        (json!({ "protocols": ["curve"], "chains": ["ethereum"], "minChange": 0.05 }), false),
        (json!({ "chains": [] }), false),
        (json!({ "chains": [], "minChange": 0 }), false),
    ] {
        assert_eq!(delivers(&plugin, &filter, event), passes, "{filter}");
    }
    let change = json!({ "minChange": 0 });
    let chains = json!({ "chains": ["base", "7", "null"] });
    for other in
        [r#"{"value":1}"#, r#"{"change":null,"chain":7}"#, r#"{"change":"NaN","chain":[]}"#, "7", "{", "[]"]
    {
        assert!(!delivers(&plugin, &change, other) && !delivers(&plugin, &chains, other), "{other}");
    }
    // Escapes and repeated fields are read as a client's JSON parser reads them.
    assert!(delivers(&plugin, &chains, r#"{"chain":"ethereum","\u0063hain":"b\u0061se"}"#));
}

#[test]
fn numbers_are_compared_exactly() {
    let plugin = Harness::<ThresholdFilter>::new(json!({})).unwrap();
    let filter: Value = serde_json::from_str(r#"{"minValue":9007199254740993}"#).unwrap();
    for (value, passes) in [
        ("9007199254740992", false),
        ("9007199254740993", true),
        ("\"9007199254740993\"", true),
        ("\"9007199254740992.99999999\"", false),
        ("1e17", true),
        ("\".5\"", false),
        ("\"\"", false),
    ] {
        assert_eq!(delivers(&plugin, &filter, &format!(r#"{{"value":{value}}}"#)), passes, "{value}");
    }
    // An invalid field hides an event only from filters on that field.
    let chain = json!({ "chains": ["base"] });
    for invalid in ["\"abc\"", "\"\"", "[]", "null", "1,\"value\":\"x\""] {
        assert!(
            delivers(&plugin, &chain, &format!(r#"{{"chain":"base","value":{invalid},"change":{invalid}}}"#)),
            "{invalid}"
        );
    }
}

#[test]
fn equal_filters_have_one_canonical_form_and_plans_save_calls() {
    let plugin = Harness::<ThresholdFilter>::new(json!({})).unwrap();
    let canonical = r#"{"minChange":5.0,"chains":["base","ethereum"]}"#;
    for same in [
        json!({ "minChange": 5, "chains": ["ethereum", "base"] }),
        json!({ "chains": ["Base", "base", "Ethereum"], "minChange": 5.0, "protocols": null }),
    ] {
        assert_eq!(plugin.canonical(same).unwrap(), canonical);
    }
    assert_eq!(plugin.compile(1, json!({})), Ok(Plan::All));
    assert_eq!(plugin.compile(1, json!({ "protocols": [] })), Ok(Plan::None));
    assert_eq!(plugin.compile(1, json!({ "minChange": 0 })), Ok(Plan::Ask));
}

#[test]
fn answers_for_many_filters_are_in_the_order_of_the_ids() {
    let plugin = Harness::<ThresholdFilter>::new(json!({})).unwrap();
    let ids: Vec<u32> = (0..150).rev().collect();
    for id in &ids {
        plugin.compile(*id, json!({ "minChange": id })).unwrap();
    }
    plugin.release(&[3, 70]);
    let data = r#"{"change":100}"#;
    for (id, passes) in ids.iter().zip(plugin.matches("tvl_changes", "", data, &ids)) {
        assert_eq!(passes, *id <= 100 && ![3, 70].contains(id), "{id}");
    }
    assert_eq!(plugin.matches("tvl_changes", "", data, &[9999]), [false], "an unknown id");
}

#[test]
fn fields_can_be_renamed() {
    let config = json!({ "fields": { "change": "tvlChangePct", "chain": "network" } });
    let plugin = Harness::<ThresholdFilter>::new(config).unwrap();
    let filter = json!({ "minChange": 5, "chains": ["base"] });
    assert!(delivers(&plugin, &filter, r#"{"tvlChangePct":-6,"network":"Base"}"#));
    assert!(!delivers(&plugin, &filter, r#"{"change":-6,"chain":"base"}"#));
}

#[test]
fn errors_name_the_invalid_field() {
    let plugin = Harness::<ThresholdFilter>::new(json!({})).unwrap();
    for (filter, error) in [
        (
            json!({ "minChange": "high" }),
            "filter.minChange: invalid type: string \"high\", expected a number",
        ),
        (json!({ "chains": "base" }), "filter.chains: invalid type: string \"base\", expected a list"),
        (json!({ "chains": ["base", 1] }), "filter.chains[1]: invalid type: integer `1`, expected a string"),
        (
            json!({ "minChanges": 1 }),
            "filter: unknown field `minChanges`, expected one of `minChange`, `minValue`, `chains`, `protocols`",
        ),
        (
            json!({ "minChange": -1 }),
            "filter: minChange must be 0 or more, got -1; it applies to the absolute value of the change",
        ),
    ] {
        assert_eq!(plugin.compile(1, &filter).unwrap_err(), error);
        assert_eq!(plugin.canonical(filter).unwrap_err().reason, error);
    }
    let error = Harness::<ThresholdFilter>::new(json!({ "fields": { "chain": "change" } })).err();
    assert_eq!(
        error.as_deref(),
        Some("config.fields: 'change' is used twice; each field must have its own name")
    );
}
