//! A plugin built against `switchyard:plugin@0.1.0` as it was published. It does not use the SDK, because
//! that changes. It uses every hook and every import, so that the test fails if a host no longer supports one
//! of them.

#![allow(unsafe_code, reason = "the canonical ABI passes raw pointers; bindgen writes all of it")]

wit_bindgen::generate!({ path: "wit", world: "plugin" });

use exports::switchyard::plugin::{connect, deliver, lifecycle, publish, room, subscribe};
use switchyard::plugin::{clock, log, metrics, random, types};

struct First;

impl lifecycle::Guest for First {
    fn describe() -> lifecycle::Info {
        let counter = lifecycle::Metric { id: 1, name: "checked".into(), kind: lifecycle::Kind::Counter };
        let histogram = lifecycle::Metric { id: 2, name: "bytes".into(), kind: lifecycle::Kind::Histogram };
        lifecycle::Info {
            name: "first-contract".into(),
            version: "1.0.0".into(),
            hooks: types::Hooks::CONNECT
                | types::Hooks::ROOM
                | types::Hooks::SUBSCRIBE
                | types::Hooks::PUBLISH
                | types::Hooks::DELIVER,
            metrics: vec![counter, histogram],
            config_schema: Some(r#"{"type":"object"}"#.into()),
        }
    }

    fn init(config: String) -> Result<(), String> {
        log::write(log::Level::Debug, &format!("{} bytes of config", config.len()));
        if config.starts_with('{') { Ok(()) } else { Err("config must be a JSON object".into()) }
    }
}

fn denied(reason: &str) -> types::Reject {
    types::Reject { code: types::Code::Denied, reason: reason.into() }
}

impl connect::Guest for First {
    fn authorize(request: connect::Request) -> Result<types::Limits, types::Reject> {
        match request.principal.id.as_str() {
            "mallory" => Err(denied("not you")),
            _ => Ok(types::Limits { rooms: Some(7), publishes_per_second: None, message_bytes: None }),
        }
    }
}

impl room::Guest for First {
    fn validate(name: String) -> Result<room::Verdict, types::Reject> {
        match name.to_lowercase() {
            canonical if canonical == name => Ok(room::Verdict { canonical: None, cache_ms: 1000 }),
            canonical => Ok(room::Verdict { canonical: Some(canonical), cache_ms: 0 }),
        }
    }
}

impl subscribe::Guest for First {
    fn authorize(
        _who: types::Principal,
        _room: String,
        filter: Option<String>,
        counts: subscribe::Counts,
    ) -> Result<subscribe::Grant, types::Reject> {
        if counts.in_room > 1000 {
            return Err(denied("the room is full"));
        }
        Ok(subscribe::Grant { filter: filter.map(|text| text.replace(' ', "")), limits: None })
    }
}

impl publish::Guest for First {
    fn check(
        _who: String,
        _room: String,
        event: String,
        data: Vec<u8>,
    ) -> Result<publish::Verdict, types::Reject> {
        metrics::count(1, 1);
        metrics::observe(2, data.len() as f64);
        match event.as_str() {
            "stamp" => {
                let stamp = format!(r#"{{"time":{},"seed":"{}"}}"#, clock::unix_ms(), random::seed());
                Ok(publish::Verdict::Replace(stamp.into_bytes()))
            }
            "noise" => Ok(publish::Verdict::Discard),
            _ => Ok(publish::Verdict::Pass),
        }
    }
}

thread_local! {
    static FILTERS: std::cell::RefCell<std::collections::BTreeMap<u32, Vec<u8>>> = const { std::cell::RefCell::new(std::collections::BTreeMap::new()) };
}

/// A filter is `{"has":TEXT}`. Messages that contain the text pass.
impl deliver::Guest for First {
    fn compile(id: u32, filter: String) -> Result<deliver::Plan, String> {
        let text = filter.strip_prefix(r#"{"has":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
        let text = text.ok_or_else(|| format!("filter must be {{\"has\":\"TEXT\"}}, got {filter}"))?;
        FILTERS.with_borrow_mut(|filters| filters.insert(id, text.as_bytes().to_vec()));
        Ok(if text.is_empty() { deliver::Plan::All } else { deliver::Plan::Guest })
    }

    fn release(ids: Vec<u32>) {
        FILTERS.with_borrow_mut(|filters| ids.iter().for_each(|id| drop(filters.remove(id))));
    }

    fn matches(_room: String, _event: String, data: Vec<u8>, ids: Vec<u32>) -> Vec<u64> {
        let mut words = vec![0; ids.len().div_ceil(64)];
        FILTERS.with_borrow(|filters| {
            for (i, id) in ids.iter().enumerate() {
                let has = |text: &[u8]| data.windows(text.len()).any(|part| part == text);
                words[i / 64] |= u64::from(filters.get(id).is_some_and(|text| has(text))) << (i % 64);
            }
        });
        words
    }
}

export!(First);
