//! A plugin that limits how often messages are published: for each principal, key, room, or value of a
//! field of the message, such as a wallet.

mod bucket;
mod config;
mod rooms;

pub use config::{Action, Config, Rule};
use serde_json::Value;
use std::time::Duration;
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::state::{self, Rate, TakeError};
use switchyard_sdk::{Message, Plugin, Publication, Publish, Reject, Verdict};

const REJECTED: Counter = Counter::new(0, "rejected");
const DISCARDED: Counter = Counter::new(1, "discarded");

/// The plugin. The README describes its configuration.
pub struct RateGuard {
    config: Config,
}

impl Plugin for RateGuard {
    type Config = Config;
    const METRICS: &'static [Metric] = &[REJECTED.metric(), DISCARDED.metric()];

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.checked()? })
    }

    fn config_schema() -> Option<String> {
        Some(include_str!("config.schema.json").to_owned())
    }
}

impl Publish for RateGuard {
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let mut data = None;
        for rule in self.config.rules.iter().filter(|rule| applies(rule, &publication.message)) {
            if data.is_none() && rule.reads_data() {
                data = Some(publication.message.json::<Value>()?);
            }
            let key = bucket::key(rule, publication, data.as_ref())?;
            let rate = Rate { burst: rule.burst, per_minute: rule.per_minute };
            let Err(error) = state::take(&key, 1, rate) else { continue };
            match rule.action {
                Action::Reject => {
                    REJECTED.add(1);
                    return Err(Reject::limit(reason(rule, error)));
                }
                Action::Discard => {
                    DISCARDED.add(1);
                    return Ok(Verdict::Discard);
                }
            }
        }
        Ok(Verdict::Pass)
    }
}

fn applies(rule: &Rule, message: &Message<'_>) -> bool {
    let matches = |pattern: &String| rooms::matches(pattern, message.room);
    rule.rooms.as_ref().is_none_or(matches)
        && (rule.events.is_empty() || rule.events.iter().any(|event| event == message.event))
}

/// What the publisher of a rejected message is told.
fn reason(rule: &Rule, error: TakeError) -> String {
    let limit = match &rule.message {
        Some(message) => message.clone(),
        None => {
            let Rule { burst, per_minute, by, .. } = rule;
            format!(
                "at most {burst} at once and {per_minute} a minute are allowed for each {}",
                by.join(" and ")
            )
        }
    };
    match error {
        // Rounded up, because an attempt that comes too early is rejected again.
        TakeError::Wait(time) => {
            let time = Duration::from_secs(time.as_millis().div_ceil(1000) as u64);
            format!("{limit}; try again in {time:?}")
        }
        TakeError::Never => format!("{limit}; try again later"),
    }
}

switchyard_sdk::export!(RateGuard: publish);
