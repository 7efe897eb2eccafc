//! The cost of the functions for state, compared with a call of a hook that does nothing.

use crate::hooks::each;
use serde_json::{Value, json};
use std::sync::Arc;
use switchyard_plugin::{Budget, Engine, Governor, OnFailure, Plugin, Principal, PublishRequest, Verdict};
use switchyard_tests::{
    guest,
    report::{Section, figure, median, rounded},
};

const ROUNDS: usize = 5;
/// How often one call of the hook uses the function. The rest of the call is measured without it and
/// subtracted.
const TIMES: u32 = 1000;
const KEY: &str = "wallet:0x1f9840a85d5af5bf1d1762f925bdaddc4201f984";
/// Entries that are there besides the one that is used, of several principals.
const ENTRIES: u32 = 5000;

pub fn measure() -> Section {
    let engine = Engine::new().expect("a machine that runs plugins");
    let file = std::fs::read(guest("keeper")).expect("a guest");
    let plugin = Plugin::load(&engine, "keeper", &file, &Value::Null, Budget::default());
    let mut governor =
        Governor::new(Arc::new(plugin.unwrap_or_else(|error| panic!("{error}"))), OnFailure::Deny);
    let mut publish = |who: &str, order: &Value| {
        let (who, data) = (Principal::new(who, "0123456789abcdef", "default"), order.to_string());
        let verdict = governor.check(&PublishRequest::new(&who, "room", "", data.as_bytes()));
        assert!(matches!(verdict, Ok(Verdict::Replace(_))), "{verdict:?}");
    };
    for n in 0..ENTRIES {
        publish(&format!("p{}", n % 50), &json!({"take": format!("{KEY}{n}"), "burst": 2}));
    }
    publish("acme", &json!({"set": KEY, "value": "1850.5"}));
    let orders =
        [("take", json!({"take": KEY, "burst": u32::MAX, "perMinute": 60})), ("get", json!({"get": KEY}))];
    let (mut empty, mut used) = (vec![], [vec![], vec![]]);
    for _ in 0..ROUNDS {
        for ((_, order), used) in orders.iter().zip(&mut used) {
            let mut with = |times: u32| {
                let mut order = order.clone();
                order["times"] = times.into();
                each(|| publish("acme", &order))
            };
            let (many, none) = (with(TIMES), with(0));
            used.push((many - none) / f64::from(TIMES));
        }
    }
    for _ in 0..ROUNDS {
        empty.push(each(|| drop(governor.validate("acme", "room").expect("an answer"))));
    }
    let empty = median(empty);
    let rows: Vec<_> =
        orders.iter().zip(used).map(|((name, _), used)| (format!("state.{name}"), median(used))).collect();
    let row = |(name, micros): &(String, f64)| vec![name.clone(), figure(*micros), figure(micros / empty)];
    let figures = |(name, micros): &(String, f64)| json!({"function": name, "us": rounded(*micros), "ratio_to_empty_hook": rounded(micros / empty)});
    Section {
        name: "state",
        title: "What the functions for state cost",
        how: format!(
            "One of {TIMES} uses in a call of the hook publish, with {ENTRIES} other entries in the state, and a \
             call of a hook that does nothing (room). Medians of {ROUNDS} rounds.",
        ),
        columns: vec!["function", "µs", "calls of an empty hook"],
        rows: [vec!["an empty hook".to_owned(), figure(empty), figure(1.0)]]
            .into_iter()
            .chain(rows.iter().map(row))
            .collect(),
        remarks: vec![],
        figures: rows.iter().map(figures).collect(),
        wrong: 0,
    }
}
