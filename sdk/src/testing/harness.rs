//! The harness, which starts a plugin in a test and calls its hooks.

use super::host;
use crate::export::{Exports, Hook};
use crate::instance::{Granted, Instance, load};
use crate::{
    Counts, Limits, Message, Plan, Principal, Publication, Reject, Request, RoomVerdict, Subscription,
    Verdict, Via,
};
use serde::Serialize;
use std::marker::PhantomData;

/// An instance of the plugin `P`, whose hooks a test calls as the host would, with JSON.
///
/// Calling a hook that `export!` does not list panics: the host would never call it, so such a test would
/// prove nothing. The harness also panics where the host would find that the plugin violates the contract.
pub struct Harness<P> {
    instance: Box<dyn Instance>,
    plugin: PhantomData<P>,
}

impl<P: Exports> Harness<P> {
    /// Starts the plugin with a configuration: `json!({...})`, or any other value that serde can serialize.
    /// Resets the log, the metrics, the clock, the seed and the state of this thread.
    ///
    /// # Errors
    /// The text that the operator would see: the configuration does not match the type, or `Plugin::new`
    /// rejected it.
    pub fn new(config: impl Serialize) -> Result<Self, String> {
        host::reset();
        let instance = load::<P>(&to_text(config))?;
        Ok(Self { instance, plugin: PhantomData })
    }

    /// Replaces the instance, as the host does after a failure, with another version or with another
    /// configuration. What it kept in its fields is lost, and what it kept in [`state`](crate::state) is not.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn restart(&mut self, config: impl Serialize) -> Result<(), String> {
        self.instance = load::<P>(&to_text(config))?;
        Ok(())
    }

    /// Calls the hook `connect`.
    ///
    /// # Errors
    /// The plugin rejects the connection.
    ///
    /// # Panics
    /// If `export!` does not list `connect`.
    pub fn connect(&self, request: &Request) -> Result<Limits, Reject> {
        assert_listed::<P>(Hook::Connect);
        self.instance.connect(request)
    }

    /// Calls the hook `room`, and as the host does, again with the canonical name.
    ///
    /// # Errors
    /// The plugin rejects the name.
    ///
    /// # Panics
    /// If `export!` does not list `room`, or if the canonical name is invalid or has another canonical name.
    pub fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        assert_listed::<P>(Hook::Room);
        let verdict = self.instance.room(name)?;
        if let Some(canonical) = &verdict.canonical {
            let verdict = self.instance.room(canonical).expect("the canonical name must be valid");
            assert_eq!(
                verdict.canonical, None,
                "'{canonical}', the canonical name of '{name}', is not canonical"
            );
        }
        Ok(verdict)
    }

    /// Calls the hook `subscribe` and, if it granted a filter, again with that filter.
    ///
    /// # Errors
    /// The plugin rejects the subscription.
    ///
    /// # Panics
    /// If `export!` lists neither `subscribe` nor `deliver`, or if the granted filter is invalid or not its
    /// own canonical form.
    pub fn subscribe(
        &self,
        who: &Principal,
        room: &str,
        filter: Option<serde_json::Value>,
        counts: Counts,
    ) -> Result<Granted, Reject> {
        assert_listed::<P>(Hook::Subscribe);
        let filter = filter.map(to_text);
        let subscribe = |filter| self.instance.subscribe(&Subscription { who, room, filter, counts });
        let granted = subscribe(filter.as_deref())?;
        if let Some(canonical) = &granted.filter {
            let again = subscribe(Some(canonical)).expect("the canonical filter must be valid");
            assert_eq!(again.filter.as_ref(), Some(canonical), "the granted filter is not canonical");
        }
        Ok(granted)
    }

    /// Calls the hook `publish` for a message that came over a WebSocket, without an idempotency key. `who`
    /// is the publisher's principal id, and `data` is JSON text. See [`publish_as`](Self::publish_as) for
    /// the rest.
    ///
    /// # Errors
    /// The plugin rejects the message.
    ///
    /// # Panics
    /// If `export!` does not list `publish`.
    pub fn publish(
        &self,
        who: &str,
        room: &str,
        event: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<Verdict, Reject> {
        let message = Message { room, event, data: data.as_ref() };
        let who = &Principal::new(who);
        self.publish_as(&Publication { who, message, via: Via::WebSocket, idempotency_key: None })
    }

    /// Calls the hook `publish`.
    ///
    /// # Errors
    /// The plugin rejects the message.
    ///
    /// # Panics
    /// If `export!` does not list `publish`.
    pub fn publish_as(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        assert_listed::<P>(Hook::Publish);
        self.instance.publish(publication)
    }

    /// The canonical form of a filter, as the plugin grants it to a default principal (without id, tier and
    /// tags). Empty if the plugin grants everything.
    ///
    /// # Errors
    /// The plugin rejects the filter.
    ///
    /// # Panics
    /// As [`subscribe`](Self::subscribe) does, and if `filter` cannot be serialized to JSON.
    pub fn canonical(&self, filter: impl Serialize) -> Result<String, Reject> {
        let filter = serde_json::to_value(filter).expect("the filter must be serializable to JSON");
        let granted = self.subscribe(&Principal::default(), "room", Some(filter), Counts::default())?;
        Ok(granted.filter.unwrap_or_default())
    }

    /// Compiles a filter and stores it under an id that the test chooses.
    ///
    /// # Errors
    /// Says what is wrong with the filter.
    ///
    /// # Panics
    /// If `export!` does not list `deliver`.
    pub fn compile(&self, id: u32, filter: impl Serialize) -> Result<Plan, String> {
        assert_listed::<P>(Hook::Deliver);
        self.instance.compile(id, &to_text(filter))
    }

    /// Forgets the filters under `ids`.
    pub fn release(&self, ids: &[u32]) {
        self.instance.release(ids);
    }

    /// Whether the message passes each of the filters under `ids`, in their order. An unknown id does not
    /// match.
    ///
    /// # Panics
    /// If `export!` does not list `deliver`.
    pub fn matches(&self, room: &str, event: &str, data: impl AsRef<[u8]>, ids: &[u32]) -> Vec<bool> {
        assert_listed::<P>(Hook::Deliver);
        let words = self.instance.matches(Message { room, event, data: data.as_ref() }, ids);
        (0..ids.len()).map(|index| words[index / 64] >> (index % 64) & 1 == 1).collect()
    }

    /// Whether a member with this filter receives the message. Compiles the filter, evaluates it as its
    /// [`Plan`] says, and releases it.
    ///
    /// # Errors
    /// Says what is wrong with the filter.
    ///
    /// # Panics
    /// If `export!` does not list `deliver`.
    pub fn delivers(
        &self,
        filter: impl Serialize,
        room: &str,
        event: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<bool, String> {
        let plan = self.compile(u32::MAX, filter)?;
        let passes = match plan {
            Plan::All => true,
            Plan::None => false,
            Plan::Ask => self.matches(room, event, data, &[u32::MAX])[0],
        };
        self.release(&[u32::MAX]);
        Ok(passes)
    }
}

fn assert_listed<P: Exports>(hook: Hook) {
    assert!(P::has(hook), "{} has no hook {hook:?}: list it in export!", P::NAME);
}

fn to_text(json: impl Serialize) -> String {
    serde_json::to_string(&json).expect("the value must be serializable to JSON")
}
