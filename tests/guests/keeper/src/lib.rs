//! A plugin that does with its state what a message says, and answers in the message's place. It also shows
//! what it is told about whoever connects and publishes.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use switchyard_sdk::state::{self, Rate, TakeError};
use switchyard_sdk::{
    Connect, Limits, NoConfig, Plugin, Publication, Publish, Reject, Request, Room, RoomVerdict, Verdict, Via,
};

/// The data of a message: what to do, and how many times. The answer is that of the last time.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    #[serde(default = "once")]
    times: u32,
    take: Option<String>,
    #[serde(default = "once")]
    amount: u32,
    #[serde(default = "once")]
    burst: u32,
    #[serde(default)]
    per_minute: u32,
    get: Option<String>,
    set: Option<String>,
    #[serde(default)]
    value: String,
    ttl_ms: Option<u64>,
    delete: Option<String>,
    /// Whether to panic afterwards.
    #[serde(default)]
    panic: bool,
}

fn once() -> u32 {
    1
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer<'a> {
    /// Milliseconds to wait; null if it was taken, and -1 for never.
    wait: Option<i64>,
    value: Option<String>,
    error: Option<String>,
    who: [&'a str; 3],
    via: &'a str,
    key: Option<&'a str>,
}

/// The plugin.
pub struct Keeper;

impl Plugin for Keeper {
    type Config = NoConfig;

    fn new(_: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Connect for Keeper {
    fn connect(&self, request: &Request) -> Result<Limits, Reject> {
        match request.header("user-agent") {
            Some("curious") => {
                let headers: Vec<_> =
                    request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                Err(Reject::denied(headers.join(", ")))
            }
            _ => Ok(Limits::default()),
        }
    }
}

/// Does nothing, so that a benchmark can measure the call.
impl Room for Keeper {
    fn room(&self, _: &str) -> Result<RoomVerdict, Reject> {
        Ok(RoomVerdict::default())
    }
}

impl Publish for Keeper {
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let order: Order = publication.message.json()?;
        let who = publication.who;
        let mut answer = Answer {
            who: [&who.id, &who.key_id, &who.tier],
            via: match publication.via {
                Via::WebSocket => "websocket",
                Via::Http => "http",
            },
            key: publication.idempotency_key,
            ..Answer::default()
        };
        let rate = Rate { burst: order.burst, per_minute: order.per_minute };
        let mut value = None;
        for _ in 0..order.times {
            if let Some(key) = &order.take {
                answer.wait = match state::take(key, order.amount, rate) {
                    Ok(()) => None,
                    Err(TakeError::Wait(time)) => Some(time.as_millis() as i64),
                    Err(TakeError::Never) => Some(-1),
                };
            }
            if let Some(key) = &order.set {
                let ttl = order.ttl_ms.map(Duration::from_millis);
                answer.error =
                    state::set(key, order.value.as_bytes(), ttl).err().map(|error| error.to_string());
            }
            if let Some(key) = &order.get {
                value = state::get(key);
            }
            if let Some(key) = &order.delete {
                state::delete(key);
            }
        }
        answer.value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
        assert!(!order.panic, "told to panic");
        Verdict::replace(&answer)
    }
}

switchyard_sdk::export!(Keeper: connect, room, publish);
