//! A plugin in the hands of a test.

use super::host;
use crate::export::{Exports, Hook};
use crate::instance::{Granted, Instance, load};
use crate::{Counts, Limits, Message, Plan, Principal, Reject, Request, RoomVerdict, Subscription, Verdict};
use serde::Serialize;
use std::marker::PhantomData;

/// Calls the hooks of `P` as the host would, JSON in and out. A hook that `export!` does not list panics here:
/// the host would not call it, so a test of it would prove nothing.
pub struct Harness<P> {
    instance: Box<dyn Instance>,
    plugin: PhantomData<P>,
}

impl<P: Exports> Harness<P> {
    /// Starts the plugin with a config: `json!({...})`, or anything that serde can write. Logs, counts and
    /// clock of this thread begin anew.
    ///
    /// # Errors
    /// What the operator would read: the config does not fit the type, or `new` refused it.
    pub fn new(config: impl Serialize) -> Result<Self, String> {
        host::reset();
        let instance = load::<P>(&text(config))?;
        Ok(Self { instance, plugin: PhantomData })
    }

    pub fn connect(&self, request: &Request) -> Result<Limits, Reject> {
        expect::<P>(Hook::Connect);
        self.instance.connect(request)
    }

    /// Asks again for a canonical name, as the host does, and panics if that would become yet another one.
    pub fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        expect::<P>(Hook::Room);
        let verdict = self.instance.room(name)?;
        if let Some(canonical) = &verdict.canonical {
            let again = self.instance.room(canonical).expect("a canonical name is valid");
            assert_eq!(again.canonical, None, "{canonical}, canonical for {name}, is not canonical itself");
        }
        Ok(verdict)
    }

    /// Panics if the granted filter is not its own canonical form.
    pub fn subscribe(
        &self,
        who: &Principal,
        room: &str,
        filter: Option<serde_json::Value>,
        counts: Counts,
    ) -> Result<Granted, Reject> {
        expect::<P>(Hook::Subscribe);
        let filter = filter.map(text);
        let ask = |filter| self.instance.subscribe(&Subscription { who, room, filter, counts });
        let granted = ask(filter.as_deref())?;
        if let Some(canonical) = &granted.filter {
            let again = ask(Some(canonical)).expect("a canonical filter is valid");
            assert_eq!(again.filter.as_ref(), Some(canonical), "the granted filter is not canonical");
        }
        Ok(granted)
    }

    /// `data` is JSON text.
    pub fn publish(
        &self,
        who: &str,
        room: &str,
        event: &str,
        data: impl AsRef<[u8]>,
    ) -> Result<Verdict, Reject> {
        expect::<P>(Hook::Publish);
        self.instance.publish(who, Message { room, event, data: data.as_ref() })
    }

    /// The filter's one spelling, as a subscriber without tier would be granted it.
    pub fn canonical(&self, filter: impl Serialize) -> Result<String, Reject> {
        let filter = serde_json::to_value(filter).expect("a filter is JSON");
        let granted = self.subscribe(&Principal::default(), "room", Some(filter), Counts::default())?;
        Ok(granted.filter.unwrap_or_default())
    }

    /// Keeps a filter under a number of the test's choice.
    pub fn compile(&self, id: u32, filter: impl Serialize) -> Result<Plan, String> {
        expect::<P>(Hook::Deliver);
        self.instance.compile(id, &text(filter))
    }

    pub fn release(&self, ids: &[u32]) {
        self.instance.release(ids);
    }

    /// One answer for each of `ids`.
    pub fn matches(&self, room: &str, event: &str, data: impl AsRef<[u8]>, ids: &[u32]) -> Vec<bool> {
        expect::<P>(Hook::Deliver);
        let words = self.instance.matches(Message { room, event, data: data.as_ref() }, ids);
        (0..ids.len()).map(|index| words[index / 64] >> (index % 64) & 1 == 1).collect()
    }

    /// Whether a subscriber with this filter gets the message: compiled, asked as planned, and released.
    ///
    /// # Errors
    /// The filter is wrong.
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

fn expect<P: Exports>(hook: Hook) {
    assert!(P::has(hook), "{} has no hook {hook:?}: list it in export!", P::NAME);
}

fn text(json: impl Serialize) -> String {
    serde_json::to_string(&json).expect("a test's config or filter is JSON")
}
