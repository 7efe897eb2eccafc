//! Names, limits and configuration of protocol rooms.

use protocol_rooms::ProtocolRooms;
use serde_json::{Value, json};
use std::time::Duration;
use switchyard_sdk::testing::{Harness, counted};
use switchyard_sdk::{Code, Counts, Principal, RoomVerdict};

fn config() -> Value {
    json!({
        "protocols": ["Uniswap-V3", "aave-v3"],
        "chains": ["ethereum", "arbitrum"],
        "cache_seconds": 60,
        "rooms": { "per_connection": 2 },
        "tiers": { "pro": { "per_connection": 10, "per_principal": 12 } },
    })
}

#[test]
fn names_in_any_case_have_one_canonical_name() {
    let plugin = Harness::<ProtocolRooms>::new(config()).unwrap();
    let cache = Duration::from_secs(60);
    assert_eq!(plugin.room("uniswap-v3:ethereum").unwrap(), RoomVerdict { canonical: None, cache });
    let canonical = Some("uniswap-v3:ethereum".to_owned());
    assert_eq!(plugin.room("Uniswap-V3:Ethereum").unwrap(), RoomVerdict { canonical, cache });
}

#[test]
fn the_reject_of_a_name_says_what_was_expected() {
    let plugin = Harness::<ProtocolRooms>::new(config()).unwrap();
    for (name, reason) in [
        ("uniswap", "room 'uniswap': expected protocol:chain, e.g. aave-v3:arbitrum"),
        ("aave-v3:ethereum:x", "room 'aave-v3:ethereum:x': expected protocol:chain, e.g. aave-v3:arbitrum"),
        (
            "Curve:ethereum",
            "room 'Curve:ethereum': unknown protocol 'curve'; expected one of aave-v3, uniswap-v3",
        ),
        ("aave-v3:base", "room 'aave-v3:base': unknown chain 'base'; expected one of arbitrum, ethereum"),
    ] {
        let reject = plugin.room(name).unwrap_err();
        assert_eq!((reject.code, reject.reason.as_str()), (Code::Invalid, reason));
    }
    assert_eq!(counted(0), 4);

    let many: Vec<_> = (0..500).map(|number| format!("protocol-{number}")).collect();
    let plugin = Harness::<ProtocolRooms>::new(json!({ "protocols": many, "chains": ["base"] })).unwrap();
    let reason = plugin.room("aave:base").unwrap_err().reason;
    assert!(reason.ends_with("protocol-108 and 488 more") && reason.len() < 300, "{reason}");
}

#[test]
fn tiers_limit_rooms_and_filters_are_rejected() {
    let plugin = Harness::<ProtocolRooms>::new(config()).unwrap();
    let subscribe = |tier: &str, filter, of_connection, of_principal| {
        let who = Principal { tier: tier.into(), ..Principal::new("acme") };
        plugin.subscribe(&who, "aave-v3:ethereum", filter, Counts { of_connection, of_principal, in_room: 0 })
    };
    assert_eq!(subscribe("pro", None, 9, 11).unwrap().limits.unwrap().rooms, Some(10));
    assert_eq!(subscribe("", None, 1, 40).unwrap().limits.unwrap().rooms, Some(2));
    for (tier, of_connection, of_principal, reason) in [
        (
            "",
            2,
            2,
            "tier 'default' allows a connection at most 2 protocol rooms, and 2 are joined; unsubscribe from one first",
        ),
        (
            "pro",
            3,
            12,
            "tier 'pro' allows all connections of a principal together at most 12 protocol rooms, and 12 are joined; unsubscribe from one first",
        ),
    ] {
        let reject = subscribe(tier, None, of_connection, of_principal).unwrap_err();
        assert_eq!((reject.code, reject.reason.as_str()), (Code::Limit, reason));
    }
    let reject = subscribe("pro", Some(json!({ "chains": ["base"] })), 0, 0).unwrap_err();
    assert_eq!(reject.code, Code::Invalid);
    assert!(reject.reason.starts_with("room 'aave-v3:ethereum' does not accept filters"), "{reject}");
}

#[test]
fn the_error_for_an_invalid_config_names_the_field() {
    for (config, error) in [
        (json!({ "chains": ["base"] }), "config: missing field `protocols`"),
        (
            json!({ "protocols": [], "chains": ["base"] }),
            "config.protocols must have at least one entry, e.g. \"uniswap-v3\"",
        ),
        (
            json!({ "protocols": ["a"], "chains": ["b"], "tiers": { "pro": { "per_connection": -1 } } }),
            "config.tiers.pro.per_connection: invalid value: integer `-1`, expected a whole number, 0 to 4294967295",
        ),
        (
            json!({ "protocols": ["a"], "chains": ["b:c"] }),
            "config.chains: invalid entry 'b:c'; expected only A-Z, a-z, 0-9, '.', '_' and '-'",
        ),
    ] {
        assert_eq!(Harness::<ProtocolRooms>::new(config).err().as_deref(), Some(error));
    }
}
