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
fn a_name_has_one_spelling() {
    let plugin = Harness::<ProtocolRooms>::new(config()).unwrap();
    let cache = Duration::from_secs(60);
    assert_eq!(plugin.room("uniswap-v3:ethereum").unwrap(), RoomVerdict { canonical: None, cache });
    let canonical = Some("uniswap-v3:ethereum".to_owned());
    assert_eq!(plugin.room("Uniswap-V3:Ethereum").unwrap(), RoomVerdict { canonical, cache });
}

#[test]
fn a_wrong_name_is_told_what_would_be_right() {
    let plugin = Harness::<ProtocolRooms>::new(config()).unwrap();
    for (name, reason) in [
        ("uniswap", "room 'uniswap': a name here is protocol:chain, such as aave-v3:arbitrum"),
        (
            "aave-v3:ethereum:x",
            "room 'aave-v3:ethereum:x': a name here is protocol:chain, such as aave-v3:arbitrum",
        ),
        (
            "Curve:ethereum",
            "room 'Curve:ethereum': protocol 'curve' is unknown; known are aave-v3, uniswap-v3",
        ),
        ("aave-v3:base", "room 'aave-v3:base': chain 'base' is unknown; known are arbitrum, ethereum"),
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
fn a_tier_limits_rooms_and_filters_are_refused() {
    let plugin = Harness::<ProtocolRooms>::new(config()).unwrap();
    let ask = |tier: &str, filter, of_connection, of_principal| {
        let who = Principal { id: "acme".into(), tier: tier.into(), tags: vec![] };
        plugin.subscribe(&who, "aave-v3:ethereum", filter, Counts { of_connection, of_principal, in_room: 0 })
    };
    assert_eq!(ask("pro", None, 9, 11).unwrap().limits.unwrap().rooms, Some(10));
    assert_eq!(ask("", None, 1, 40).unwrap().limits.unwrap().rooms, Some(2));
    for (tier, of_connection, of_principal, reason) in [
        (
            "",
            2,
            2,
            "with no tier, a connection may hold 2 protocol rooms and 2 are held: unsubscribe one first",
        ),
        (
            "pro",
            3,
            12,
            "with pro, all connections of a principal may hold 12 protocol rooms and 12 are held: unsubscribe one first",
        ),
    ] {
        let reject = ask(tier, None, of_connection, of_principal).unwrap_err();
        assert_eq!((reject.code, reject.reason.as_str()), (Code::Limit, reason));
    }
    let reject = ask("pro", Some(json!({ "chains": ["base"] })), 0, 0).unwrap_err();
    assert_eq!(reject.code, Code::Invalid);
    assert!(reject.reason.starts_with("room 'aave-v3:ethereum' takes no filter"), "{reject}");
}

#[test]
fn a_wrong_config_names_the_field() {
    for (config, error) in [
        (json!({ "chains": ["base"] }), "config: missing field `protocols`"),
        (
            json!({ "protocols": [], "chains": ["base"] }),
            "config.protocols is empty: name at least one, such as \"uniswap-v3\"",
        ),
        (
            json!({ "protocols": ["a"], "chains": ["b"], "tiers": { "pro": { "per_connection": -1 } } }),
            "config.tiers.pro.per_connection: invalid value: integer `-1`, expected a whole number, 0 to 4294967295",
        ),
        (
            json!({ "protocols": ["a"], "chains": ["b:c"] }),
            "config.chains: 'b:c' must be of A-Z, a-z, 0-9, '.', '_' and '-'",
        ),
    ] {
        assert_eq!(Harness::<ProtocolRooms>::new(config).err().as_deref(), Some(error));
    }
}
