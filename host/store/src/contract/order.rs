//! Tests of the order of messages that are published without waiting for answers.

use super::*;

pub(super) async fn overlapping_publishes_keep_their_order(s: Subject) {
    const COUNT: u64 = 200;
    let (named, inbox, acme) = (room("a"), room("@acme"), Arc::<str>::from("acme"));
    s.store.broker.subscribe(&named);
    s.receives(&["a from 0"]).await;
    let (mut storing, mut expected, mut heard, mut newest) = (vec![], vec![], vec![], 0);
    for n in 0..COUNT {
        // Every third message is a duplicate, and every fifth needs a member that the room does not have.
        let (data, key) = (n.to_string(), (n % 3 == 0).then_some("again"));
        storing.push(s.store.broker.publish(Message {
            room: &named,
            event: None,
            data: &data,
            principal: &acme,
            idempotency_key: key,
            needs_member: false,
            names_publisher: false,
            shows_sender: false,
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
            principal: &acme,
            idempotency_key: None,
            needs_member,
            names_publisher: false,
            shows_sender: false,
        }));
        // In this room, only messages that need no member are published.
        let others = n - n / 5;
        expected.push((!needs_member).then_some((others, false)));
    }
    for (n, (storing, expected)) in storing.into_iter().zip(expected).enumerate() {
        let stored = storing.await.unwrap().map(|stored| (stored.position.offset, stored.duplicate));
        assert_eq!(stored, expected, "message {n}");
    }
    s.eventually(async || s.received() == heard).await;
}
