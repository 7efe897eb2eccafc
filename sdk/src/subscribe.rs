//! The hook `subscribe`: whether a principal may join a room, and which of its messages it receives.

use crate::{Limits, Plugin, Principal, Reject, json};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Counts that the host keeps for the plugin, on the node that calls. None of them includes this
/// subscription.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Rooms of this plugin that the connection is in.
    pub of_connection: u32,
    /// Rooms of this plugin that all connections of the principal are in, added up.
    pub of_principal: u32,
    /// Members that the room has.
    pub in_room: u32,
}

/// A request to join a room. The host also makes one, without a filter, for a principal that publishes to the
/// room without joining it; then only the limits of the grant matter.
#[derive(Debug, Clone, Copy)]
pub struct Subscription<'a> {
    /// The principal that wants to join.
    pub who: &'a Principal,
    /// The room's canonical name.
    pub room: &'a str,
    /// The filter that the client sent, a JSON object; `None` if it sent none.
    pub filter: Option<&'a str>,
    /// Counts for limits.
    pub counts: Counts,
}

impl Subscription<'_> {
    /// Reads the filter as an `F`. Returns `None` if the client sent none.
    ///
    /// # Errors
    /// A [`Reject::invalid`] that names the invalid field and says what was expected.
    pub fn filter_as<F: DeserializeOwned>(&self) -> Result<Option<F>, Reject> {
        self.filter.map(|text| json::typed("filter", text.as_bytes()).map_err(Reject::invalid)).transpose()
    }
}

/// Which messages of the room the member receives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// What its filter asks for, in canonical form, or everything if it sent no filter. If the plugin has no
    /// `deliver` hook, a filter is rejected. This is the default, so that a plugin that only checks limits
    /// cannot drop a filter by accident.
    #[default]
    Asked,
    /// Everything, whatever filter the client sent.
    Everything,
    /// What passes this JSON filter, whatever filter the client sent. The SDK brings it into canonical form.
    Filter(String),
}

/// Permission to join a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Which messages the member receives.
    pub scope: Scope,
    /// Limits, if any. `rooms` limits how many rooms of this plugin the connection may be in. The other
    /// fields apply to what the principal publishes to this room on this node, over all its connections and
    /// over HTTP.
    pub limits: Option<Limits>,
}

impl Grant {
    /// Grants what passes `filter`, instead of what the client asked for, without limits.
    ///
    /// # Errors
    /// A [`Reject`] with [`crate::Code::Internal`] if `filter` cannot be serialized to JSON.
    pub fn filtered(filter: &impl Serialize) -> Result<Self, Reject> {
        let text = json::canonical(filter).map_err(Reject::internal)?;
        Ok(Self { scope: Scope::Filter(text), limits: None })
    }

    /// The same grant with these limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits: Some(limits), ..self }
    }
}

/// The hook `subscribe`. List it in [`crate::export!`].
pub trait Subscribe: Plugin {
    /// Decides about one room that a client subscribes to. The host calls this again when the client
    /// subscribes to the room again, for example with another filter.
    ///
    /// # Errors
    /// A reject applies to this room only. The other rooms of the client's request are decided separately.
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject>;
}
