//! The audit lines about API keys: which were added, changed or removed. Sees digests only, never keys.

use crate::audit::{Actor, Audit, AuditAction, AuditEvent};
use std::collections::HashMap;
use switchyard_store::key::KeyConfig;

/// Writes a line for each difference between the keys of one source.
pub(super) fn record_changes(audit: &Audit, by: &Actor, before: &[KeyConfig], after: &[KeyConfig]) {
    for (action, key) in differences(before, after) {
        let event = AuditEvent::new(by.clone(), action, key.id()).digest(key.digest);
        audit.record(&event.detail("of", &*key.principal.0));
    }
}

fn differences<'a>(before: &'a [KeyConfig], after: &'a [KeyConfig]) -> Vec<(AuditAction, &'a KeyConfig)> {
    let by_digest =
        |keys: &'a [KeyConfig]| -> HashMap<_, _> { keys.iter().map(|key| (key.digest, key)).collect() };
    let (old, new) = (by_digest(before), by_digest(after));
    let changed = after.iter().filter_map(|key| match old.get(&key.digest) {
        None => Some((AuditAction::KeyAdd, key)),
        Some(known) if *known != key => Some((AuditAction::KeyChange, key)),
        Some(_) => None,
    });
    let removed = before.iter().filter(|key| !new.contains_key(&key.digest));
    changed.chain(removed.map(|key| (AuditAction::KeyRemove, key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_store::key::{Digest, PrincipalName, Scope};

    #[test]
    fn each_key_that_differs_has_one_line() {
        let key = |name: &str, scopes: &[Scope]| {
            KeyConfig::new(Digest::of(name), PrincipalName(name.into()), scopes.to_vec())
        };
        let (a, b, c) = (key("a", &[]), key("b", &[]), key("c", &[]));
        let changed = key("b", &[Scope::Publish]);
        let (before, after) = ([a.clone(), b], [a.clone(), changed, c]);
        let only_a = [a];
        let shown = |before, after| -> Vec<_> {
            differences(before, after).into_iter().map(|(action, key)| (action, &*key.principal.0)).collect()
        };
        assert_eq!(shown(&before, &after), [(AuditAction::KeyChange, "b"), (AuditAction::KeyAdd, "c")]);
        assert_eq!(shown(&after, &only_a), [(AuditAction::KeyRemove, "b"), (AuditAction::KeyRemove, "c")]);
        assert!(shown(&after, &after).is_empty());
    }
}
