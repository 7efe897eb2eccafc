//! Tests of the registry of bans and revocations.

use super::Subject;
use crate::denial::{AddressRange, Denial, DenialTarget, StoredDenials};
use switchyard_protocol::unix_ms;

pub(super) async fn bans_are_read_until_they_are_lifted(s: Subject) {
    let registry = &s.store.denials;
    let (now, hour) = (unix_ms(), 3_600_000);
    let (acme, bob) = (DenialTarget::principal("acme").unwrap(), DenialTarget::tokens_of("bob").unwrap());
    let address = DenialTarget::Address(AddressRange::parse("2001:db8::1").unwrap());
    let deny = async |target: &DenialTarget, until| {
        registry.deny(&Denial { target: target.clone(), since: now, until }).await.unwrap();
    };
    let next = async |known: &StoredDenials| registry.read(known).await.unwrap().expect("it changed");
    for target in [&acme, &bob, &address] {
        deny(target, now + hour).await;
    }
    let known = next(&StoredDenials::default()).await;
    assert!(registry.read(&known).await.unwrap().is_none(), "nothing changed");
    assert_eq!(known.denials.list(now).len(), 3);
    assert_eq!(known.denials.principal("acme", now), Some(now + hour));
    assert!(known.denials.token(None, "bob", Some(now - 1), now));
    assert_eq!(known.denials.address("2001:db8::2".parse().unwrap(), now), Some(now + hour));

    deny(&acme, now + 2 * hour).await;
    let known = next(&known).await;
    assert_eq!(known.denials.principal("acme", now), Some(now + 2 * hour));
    assert!(registry.lift(&acme).await.unwrap());
    assert!(!registry.lift(&acme).await.unwrap(), "it was lifted before");
    assert!(!registry.lift(&DenialTarget::principal("zed").unwrap()).await.unwrap(), "it was never banned");
    let known = next(&known).await;
    assert_eq!((known.denials.principal("acme", now), known.denials.list(now).len()), (None, 2));
    deny(&acme, now + hour).await;
    assert_eq!(next(&known).await.denials.principal("acme", now), Some(now + hour), "banned again");
}
