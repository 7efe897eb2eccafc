//! Tests of bans and revocations without a store.

use super::*;

fn denial(target: &str, since: u64, until: u64) -> Denial {
    Denial { target: DenialTarget::parse(target).unwrap(), since, until }
}

fn denials(list: &[(&str, u64, u64)]) -> Denials {
    list.iter().map(|(target, since, until)| denial(target, *since, *until)).collect()
}

#[test]
fn a_ban_holds_until_its_end() {
    let denials = denials(&[("principal acme", 10, 20), ("address 192.0.2.1", 10, 20)]);
    assert_eq!((denials.principal("acme", 19), denials.principal("acme", 20)), (Some(20), None));
    assert_eq!(denials.principal("bob", 19), None);
    let banned = |address: &str, now| denials.address(address.parse().unwrap(), now);
    assert_eq!((banned("192.0.2.1", 19), banned("192.0.2.1", 20)), (Some(20), None));
    assert_eq!((banned("::ffff:192.0.2.1", 19), banned("192.0.2.2", 19)), (Some(20), None));
    assert_eq!(Denials::default().address("192.0.2.1".parse().unwrap(), 0), None);
    assert_eq!(denials.list(19).len(), 2);
    assert!(denials.list(20).is_empty(), "what has ended is not listed");
    let target = DenialTarget::principal("acme").unwrap();
    assert_eq!(denials.of(&target, 19), Some(denial("principal acme", 10, 20)));
    assert_eq!(denials.of(&target, 20), None);
}

#[test]
fn a_token_is_revoked_by_its_id_or_by_when_it_was_issued() {
    let denials = denials(&[("token t-1", 10, 100), ("tokens acme", 50, 100)]);
    for (id, principal, issued_at, now, expected) in [
        (Some("t-1"), "bob", Some(70), 99, true),
        (Some("t-1"), "bob", Some(70), 100, false),
        (Some("t-2"), "bob", Some(10), 99, false),
        (None, "bob", None, 99, false),
        (Some("t-2"), "acme", Some(49), 99, true),
        (Some("t-2"), "acme", Some(50), 99, false),
        (None, "acme", None, 99, true),
        (None, "acme", None, 100, false),
    ] {
        let found = denials.token(id, principal, issued_at, now);
        assert_eq!(found, expected, "{id:?} {principal} {issued_at:?} at {now}");
    }
    assert_eq!(denials.principal("acme", 60), None, "its tokens are revoked, and it is not banned");
}

#[test]
fn addresses_of_proxies_are_excepted() {
    let denials = denials(&[("address 10.0.0.1", 1, 9), ("address 192.0.2.1", 1, 9)]);
    let proxy = "10.0.0.1".parse().unwrap();
    let rest = denials.without_addresses(|range| range.contains(proxy));
    assert_eq!(rest.list(1), [denial("address 192.0.2.1", 1, 9)]);
}

#[test]
fn a_target_parses_what_it_displays() {
    for text in ["principal acme", "address 192.0.2.1", "address 2001:db8::/64", "token a b", "tokens acme"] {
        assert_eq!(DenialTarget::parse(text).unwrap().to_string(), text);
    }
    let control = "token a\nb";
    for text in ["", "acme", "principal ", "principal a b", "address x", "token ", control, "kind acme"] {
        assert_eq!(DenialTarget::parse(text), None, "{text:?}");
    }
    assert!(DenialTarget::token(&"x".repeat(256)).is_ok() && DenialTarget::token(&"x".repeat(257)).is_err());
}

#[test]
fn an_ipv6_address_stands_for_its_64() {
    for (text, expected) in [
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::/64", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        assert_eq!(AddressRange::parse(text).unwrap().to_string(), expected);
    }
    for text in
        ["192.0.2.0/24", "192.0.2.1/64", "2001:db8::/48", "2001:db8::/64/64", "example.org", "", "1.2.3"]
    {
        let error = AddressRange::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("invalid address '{text}'; expected an IPv4")), "{error}");
    }
}

#[test]
fn an_entry_parses_what_it_displays() {
    for text in ["5 90", "5 90 10 80"] {
        assert_eq!(DenialEntry::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "5", "5 90 10", "5 90 10 80 7", "5 x"] {
        assert_eq!(DenialEntry::parse(text), None, "{text:?}");
    }
}

/// Regression: nodes wrote what the registry had forgotten again and again, so that it grew beyond its bound.
#[test]
fn what_a_full_registry_has_forgotten_is_not_lost() {
    let entry = |text: String| DenialEntry::parse(&text).unwrap();
    let mut found: DenialEntries = (0..MAX_PAST_DENIALS)
        .map(|n| (format!("token t{n}").into(), entry(format!("{} 90", 100 + n))))
        .collect();
    let known =
        entries(&[("principal old", "99 90"), ("principal new", "101 90"), ("principal held", "5 90 1 80")]);
    let lost = |found: &DenialEntries| {
        let (_, lost) = merge(&known, found.clone(), 20);
        lost.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(lost(&found), ["principal held", "principal new"]);
    found.remove("token t0");
    assert_eq!(lost(&found), ["principal held", "principal new", "principal old"], "there was space for it");
}

fn entries(list: &[(&str, &str)]) -> DenialEntries {
    list.iter().map(|(name, text)| ((*name).into(), DenialEntry::parse(text).unwrap())).collect()
}

#[test]
fn what_a_registry_lacks_is_lost_unless_it_has_ended() {
    let known =
        entries(&[("principal a", "5 90 1 80"), ("principal b", "6 90"), ("principal c", "7 40 1 40")]);
    assert_eq!(merge(&known, known.clone(), 20), (known.clone(), DenialEntries::new()));
    assert_eq!(merge(&known, DenialEntries::new(), 20), (known.clone(), known.clone()));
    let (_, lost) = merge(&known, DenialEntries::new(), 40);
    assert_eq!(lost.len(), 2, "one has ended");
    // Lifted since, and banned again since.
    let found =
        entries(&[("principal a", "8 90"), ("principal b", "9 90 1 80"), ("principal c", "7 40 1 40")]);
    assert_eq!(merge(&known, found.clone(), 20), (found, DenialEntries::new()));
    // The registry went back to the time before "b" was lifted.
    let found = entries(&[("principal a", "5 90 1 80"), ("principal b", "4 90 1 80")]);
    let (merged, lost) = merge(&known, found, 50);
    assert_eq!(merged, entries(&[("principal a", "5 90 1 80"), ("principal b", "6 90")]));
    assert_eq!(lost, entries(&[("principal b", "6 90")]));
}

#[test]
fn a_range_is_one_ipv4_address_or_one_ipv6_64() {
    let range = |address: &str| AddressRange::of(address.parse().unwrap());
    assert_eq!(range("2001:db8::1"), range("2001:db8::ffff:0:0:1"));
    assert_ne!(range("2001:db8::1"), range("2001:db8:0:1::1"));
    assert_eq!(range("::ffff:192.0.2.1"), range("192.0.2.1"));
    assert_ne!(range("192.0.2.1"), range("192.0.2.2"));
    assert_eq!(range("2001:db8::1").to_string(), "2001:db8::/64");
}
