use serde::{Deserialize, Serialize};
use switchyard_sdk::{Deliver, Message, Plugin, Publication, Publish, Reject, Verdict};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    max: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    floor: f64,
}

#[derive(Deserialize)]
struct Price {
    price: f64,
}

/// Accepts prices up to `max`. A member receives the prices above its own `floor`.
struct Prices(Config);

impl Plugin for Prices {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl Publish for Prices {
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let Price { price } = publication.message.json()?; // or a reject that names the invalid field
        if price <= self.0.max {
            return Ok(Verdict::Pass);
        }
        Err(Reject::invalid(format!("price must be at most {}, got {price}", self.0.max)))
    }
}

impl Deliver for Prices {
    type Filter = Filter;
    type Parsed<'a> = Price;

    fn parse<'a>(&self, message: Message<'a>) -> Option<Price> {
        message.read() // called once per message; with None, no filter matches
    }

    fn matches(&self, filter: &Filter, message: &Price) -> bool {
        message.price > filter.floor // called once per filter
    }
}

switchyard_sdk::export!(Prices: publish, deliver);

#[test]
fn prices_are_checked_and_filtered() {
    use serde_json::json;
    let plugin = switchyard_sdk::testing::Harness::<Prices>::new(json!({ "max": 10 })).unwrap();
    let reject = plugin.publish("acme", "prices", "", r#"{"price":11}"#).unwrap_err();
    assert_eq!(reject.reason, "price must be at most 10, got 11");
    assert!(plugin.delivers(json!({ "floor": 4 }), "prices", "", r#"{"price":5}"#).unwrap());
}
