//! An instance: a plugin with its configuration and its filters. The Wasm exports and the test harness both
//! call the plugin through it.

use crate::export::Exports;
use crate::filters::FilterTable;
use crate::reject::truncated;
use crate::{
    Limits, Message, Plan, Publication, Reject, Request, RoomVerdict, Scope, Subscription, Verdict, json,
};
use std::cell::RefCell;

/// What the host is told about an allowed subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// The filter in canonical form; `None` if the member receives every message.
    pub filter: Option<String>,
    /// The limits that the plugin granted. See [`Limits`] for what they apply to.
    pub limits: Option<Limits>,
}

/// The hooks of an instance. Hides the type of the plugin.
pub(crate) trait Instance {
    fn connect(&self, request: &Request) -> Result<Limits, Reject>;
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject>;
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Granted, Reject>;
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject>;
    fn compile(&self, id: u32, filter: &str) -> Result<Plan, String>;
    fn release(&self, ids: &[u32]);
    fn matches(&self, message: Message<'_>, ids: &[u32]) -> Vec<u64>;
}

struct Loaded<P> {
    plugin: P,
    filters: RefCell<Box<dyn FilterTable<P>>>,
}

/// Reads the configuration and creates the plugin.
pub(crate) fn load<P: Exports>(config: &str) -> Result<Box<dyn Instance>, String> {
    let plugin = json::typed("config", config.as_bytes()).and_then(P::new).map_err(truncated)?;
    Ok(Box::new(Loaded { plugin, filters: RefCell::new(P::filters()) }))
}

impl<P: Exports> Instance for Loaded<P> {
    fn connect(&self, request: &Request) -> Result<Limits, Reject> {
        self.plugin.on_connect(request)
    }

    fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        self.plugin.on_room(name)
    }

    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Granted, Reject> {
        let grant = self.plugin.on_subscribe(subscription)?;
        let filter = match &grant.scope {
            Scope::Asked => subscription.filter,
            Scope::Everything => None,
            Scope::Filter(filter) => Some(filter.as_str()),
        };
        let filters = self.filters.borrow();
        let filter = filter.map(|filter| filters.canonical(&self.plugin, filter)).transpose()?;
        Ok(Granted { filter, limits: grant.limits })
    }

    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        self.plugin.on_publish(publication)
    }

    fn compile(&self, id: u32, filter: &str) -> Result<Plan, String> {
        self.filters.borrow_mut().compile(&self.plugin, id, filter)
    }

    fn release(&self, ids: &[u32]) {
        self.filters.borrow_mut().release(&self.plugin, ids);
    }

    fn matches(&self, message: Message<'_>, ids: &[u32]) -> Vec<u64> {
        self.filters.borrow().matches(&self.plugin, message, ids)
    }
}
