//! Messages in flight: their order and their limits.

use super::*;
use crate::hub::tests::{govern, hub_with_memory, set_room_policy, version};
use serde_json::value::RawValue;
use switchyard_process::memory::MemoryAccount;
use switchyard_store::denial::{Denial, DenialTarget};

/// A hub with a plugin for `g:*` that does not check messages, and one for `closed:*` that is not loaded.
async fn hub() -> Arc<Hub> {
    let hub = crate::hub::tests::hub(2).await;
    let [slot, closed] = ["g", "closed"].map(|name| hub.add_slot(name));
    hub.swap(slot, version(1, 2)).await.unwrap();
    govern(&hub, &[(slot, "g"), (closed, "closed")]).await;
    hub
}

/// A principal that publishes.
struct Source {
    share: Arc<MemoryShare>,
}

impl Source {
    fn new(hub: &Hub, principal: &str) -> Self {
        Self { share: hub.memory.share(&principal.into()) }
    }

    fn publisher(&self) -> Publisher<'_> {
        let key = Key::detached(self.share.principal());
        let keys = Keys::detached(self.share.principal());
        Publisher { keys, share: &self.share, key, via: Via::WebSocket }
    }

    async fn publish(&self, hub: &Hub, room: &str, data: &str, key: Option<&str>) -> PublishOutcome {
        let data = RawValue::from_string(data.to_owned()).unwrap();
        hub.publish(self.publisher(), proposal(room, &data, key)).await
    }
}

fn proposal<'a>(room: &'a str, data: &'a RawValue, key: Option<&'a str>) -> Proposal<'a> {
    let message = Publish { room: room.into(), event: None, data, key: key.map(Into::into) };
    Proposal { room: RoomName::parse(room).unwrap(), message, bytes: data.get().len() }
}

#[tokio::test]
async fn answers_have_the_order_of_the_requests() {
    let hub = hub().await;
    let acme = Source::new(&hub, "acme");
    let data = RawValue::from_string("1".into()).unwrap();
    let mut pipeline = PublishPipeline::default();
    pipeline.begin(&hub, acme.publisher(), proposal("a", &data, None), "first");
    pipeline.refuse(&acme.share, Refusal::invalid("no"), 10, "second");
    pipeline.begin(&hub, acme.publisher(), proposal("a", &data, None), "third");
    let (tag, published) = pipeline.next(&hub).await.unwrap();
    assert_eq!((tag, published.unwrap().offset), ("first", 1));
    let (tag, published) = pipeline.next_ready(&hub).unwrap();
    assert_eq!((tag, published.unwrap_err().code), ("second", ErrorCode::InvalidRequest));
    let (tag, published) = pipeline.next(&hub).await.unwrap();
    assert_eq!((tag, published.unwrap().offset), ("third", 2));
    assert!(pipeline.next(&hub).await.is_none());
}

/// What has waited for a plugin is not stored if its principal was banned meanwhile.
#[tokio::test]
async fn a_ban_applies_to_messages_in_flight() {
    let hub = hub().await;
    let (acme, bob) = (Source::new(&hub, "acme"), Source::new(&hub, "bob"));
    let data = RawValue::from_string("1".into()).unwrap();
    let mut pipelines = [&acme, &bob].map(|source| (source, PublishPipeline::default()));
    for (source, pipeline) in &mut pipelines {
        pipeline.begin(&hub, source.publisher(), proposal("closed:a", &data, None), "checked");
        pipeline.begin(&hub, source.publisher(), proposal("a", &data, None), "waiting");
    }
    let (target, until) = (DenialTarget::principal("acme").unwrap(), u64::MAX);
    assert!(hub.denials.replace([Denial { target, since: 0, until }].into_iter().collect()));
    let mut outcomes = vec![];
    for (_, pipeline) in &mut pipelines {
        pipeline.next(&hub).await.unwrap().1.unwrap_err();
        outcomes.push(pipeline.next(&hub).await.unwrap().1.map_err(|refusal| refusal.code));
    }
    assert_eq!(outcomes[0].as_ref().err(), Some(&ErrorCode::Forbidden));
    assert_eq!(outcomes[1].as_ref().unwrap().offset, 1, "that of the other one is stored");
}

/// Regression: what the store had no memory for, or what was refused after it had waited, was taken off the rate that all
/// publishers of the room share.
#[tokio::test]
async fn a_refused_message_takes_nothing_of_the_rate_of_its_room() {
    let memory = MemoryAccount::new(1 << 20);
    let hub = hub_with_memory(2, memory.clone()).await;
    let closed = hub.add_slot("closed");
    govern(&hub, &[(closed, "closed")]).await;
    set_room_policy(&hub, "match = '*'\npublishes = '1/m'");
    let (acme, bob) = (Source::new(&hub, "acme"), Source::new(&hub, "bob"));
    let code =
        |outcome: PublishOutcome| outcome.map(|published| published.offset).map_err(|refusal| refusal.code);
    let full = acme.share.charge(MemoryKind::Outboxes, (1 << 20) * 9 / 10);
    let published = acme.publish(&hub, "a", "1", None).await;
    assert_eq!(code(published), Err(ErrorCode::Overloaded));
    drop(full);
    // Its principal is banned while it waits for a message before it.
    let data = RawValue::from_string("1".into()).unwrap();
    let mut pipeline = PublishPipeline::default();
    pipeline.begin(&hub, acme.publisher(), proposal("closed:a", &data, None), ());
    pipeline.begin(&hub, acme.publisher(), proposal("a", &data, None), ());
    let target = DenialTarget::principal("acme").unwrap();
    assert!(hub.denials.replace([Denial { target, since: 0, until: u64::MAX }].into_iter().collect()));
    pipeline.next(&hub).await.unwrap().1.unwrap_err();
    assert_eq!(code(pipeline.next(&hub).await.unwrap().1), Err(ErrorCode::Forbidden));
    assert_eq!(code(bob.publish(&hub, "a", "1", None).await), Ok(1));
    assert_eq!(code(bob.publish(&hub, "a", "1", None).await), Err(ErrorCode::RateLimited));
    // What waits takes of the rate when it is stored.
    let mut pipeline = PublishPipeline::default();
    for room in ["closed:a", "b", "b"] {
        pipeline.begin(&hub, bob.publisher(), proposal(room, &data, None), ());
    }
    pipeline.next(&hub).await.unwrap().1.unwrap_err();
    assert_eq!(code(pipeline.next(&hub).await.unwrap().1), Ok(1));
    assert_eq!(code(pipeline.next(&hub).await.unwrap().1), Err(ErrorCode::RateLimited));
}

/// The plugin has no version yet, so the shard refuses the message that it must check.
#[tokio::test]
async fn a_message_waits_for_earlier_ones_that_the_plugin_checks() {
    let hub = hub().await;
    let acme = Source::new(&hub, "acme");
    let data = RawValue::from_string("1".into()).unwrap();
    let mut pipeline = PublishPipeline::default();
    pipeline.begin(&hub, acme.publisher(), proposal("closed:a", &data, None), "checked");
    pipeline.begin(&hub, acme.publisher(), proposal("a", &data, None), "waiting");
    let (tag, published) = pipeline.next(&hub).await.unwrap();
    assert_eq!((tag, published.unwrap_err().code), ("checked", ErrorCode::PluginFailed));
    let (tag, published) = pipeline.next_ready(&hub).unwrap();
    assert_eq!((tag, published.unwrap().offset), ("waiting", 1));
}

#[tokio::test]
async fn the_number_and_the_bytes_of_messages_in_flight_are_limited() {
    let hub = hub().await;
    let acme = Source::new(&hub, "acme");
    let mut pipeline = PublishPipeline::default();
    for _ in 0..MAX_IN_FLIGHT {
        assert!(!pipeline.is_full(&acme.share));
        pipeline.refuse(&acme.share, Refusal::invalid("no"), 0, ());
    }
    assert!(pipeline.is_full(&acme.share));
    assert_eq!(pipeline.bytes, MAX_IN_FLIGHT * IN_FLIGHT_OVERHEAD);
    while pipeline.next_ready(&hub).is_some() {}
    assert_eq!((pipeline.bytes, pipeline.checked, pipeline.messages.capacity()), (0, 0, 0));
    pipeline.refuse(&acme.share, Refusal::invalid("no"), MAX_IN_FLIGHT_BYTES, ());
    assert!(pipeline.is_full(&acme.share));
}

/// A plugin may fail because of a message on any node, and not only on that of its publisher.
#[tokio::test]
async fn messages_in_the_rooms_of_plugins_name_their_publishers() {
    let hub = hub().await;
    let mallory = Source::new(&hub, "mallory");
    for (room, publisher) in [("g:a", Some("mallory")), ("a", None)] {
        mallory.publish(&hub, room, "1", None).await.unwrap();
        let (room, all) = (RoomName::parse(room).unwrap(), PageLimit { messages: 9, bytes: 1000 });
        let history = hub.store.broker.history(&room, None, all, Reader::Other).await.unwrap();
        let publishers: Vec<_> =
            history.messages.iter().map(|message| message.publisher.as_deref()).collect();
        assert_eq!(publishers, [publisher], "{}", &*room);
    }
}
