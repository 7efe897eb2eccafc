//! The hook `subscribe`: may this connection join this room, and what of it does it hear.

use crate::{Limits, Plugin, Principal, Reject, json};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the host counts for the plugin, all before this subscription.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Rooms of this plugin that the connection holds.
    pub of_connection: u32,
    /// Rooms of this plugin held by all connections of the principal.
    pub of_principal: u32,
    /// Members of the room.
    pub in_room: u32,
}

/// A wish to join a room.
#[derive(Debug, Clone, Copy)]
pub struct Subscription<'a> {
    pub who: &'a Principal,
    /// The room's canonical name.
    pub room: &'a str,
    /// The JSON object that the client sent.
    pub filter: Option<&'a str>,
    pub counts: Counts,
}

impl Subscription<'_> {
    /// The filter, typed; `None` when the client sent none.
    ///
    /// # Errors
    /// A [`Reject::invalid`] that names the field that is wrong.
    pub fn filter_as<F: DeserializeOwned>(&self) -> Result<Option<F>, Reject> {
        self.filter.map(|text| json::typed("filter", text.as_bytes()).map_err(Reject::invalid)).transpose()
    }
}

/// Which messages of the room the subscriber gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// What its filter asks for, in canonical form; everything when it sent none. A filter is refused when the
    /// plugin has no `deliver` hook. This is the default so that a plugin which only counts cannot drop a filter.
    #[default]
    Asked,
    /// Everything, whatever filter was sent.
    Everything,
    /// What this JSON filter lets through, whatever was sent. It is brought into canonical form too.
    Filter(String),
}

/// A subscription is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    pub scope: Scope,
    /// `rooms` is the most rooms of this plugin that the connection may hold; the others hold for what it
    /// publishes to this room.
    pub limits: Option<Limits>,
}

impl Grant {
    /// Grants what `filter` lets through instead of what was asked.
    ///
    /// # Errors
    /// A [`Reject`] with [`crate::Code::Internal`] when `filter` has no JSON form.
    pub fn filtered(filter: &impl Serialize) -> Result<Self, Reject> {
        let text = json::canonical(filter).map_err(Reject::internal)?;
        Ok(Self { scope: Scope::Filter(text), limits: None })
    }

    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits: Some(limits), ..self }
    }
}

pub trait Subscribe: Plugin {
    /// Asked for each room that a client subscribes to, and again when it subscribes anew with another filter.
    ///
    /// # Errors
    /// A reject refuses this room only; the other rooms of the request are asked for alone.
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject>;
}
