//! Messages that are on their way together.

use super::*;

/// Nobody waits for an answer before the next message comes.
pub(super) async fn what_overlaps_is_in_order(s: Subject) {
    const MANY: u64 = 200;
    let (named, inbox, acme) = (room("a"), room("@acme"), Arc::<str>::from("acme"));
    s.store.broker.subscribe(&named);
    s.hears(&["a from 0"]).await;
    let (mut storing, mut expected, mut heard, mut newest) = (vec![], vec![], vec![], 0);
    for n in 0..MANY {
        // Each third is a message that came before, and each fifth needs somebody who is not there.
        let (data, key) = (n.to_string(), (n % 3 == 0).then_some("again"));
        storing.push(s.store.broker.publish(Message {
            room: &named,
            event: None,
            data: &data,
            who: &acme,
            key,
            needs_member: false,
        }));
        let is_again = n % 3 == 0 && n > 0;
        newest += u64::from(!is_again);
        expected.push(Some((if is_again { 1 } else { newest }, is_again)));
        if !is_again {
            heard.push(format!("a {newest} {n}"));
        }
        let needs_member = n % 5 == 0;
        storing.push(s.store.broker.publish(Message {
            room: &inbox,
            event: None,
            data: &data,
            who: &acme,
            key: None,
            needs_member,
        }));
        // In a room of its own: those that need nobody.
        let others = n - n / 5;
        expected.push((!needs_member).then_some((others, false)));
    }
    for (n, (storing, expected)) in storing.into_iter().zip(expected).enumerate() {
        let stored = storing.await.unwrap().map(|stored| (stored.position.offset, stored.duplicate));
        assert_eq!(stored, expected, "message {n}");
    }
    s.becomes(async || s.heard() == heard).await;
}
