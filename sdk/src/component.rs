//! The plugin's side of the contract in Wasm. It converts between bindgen's types and those of the SDK, and
//! decides nothing.

use crate::export::{Exports, Hook};
use crate::instance::{Instance, load};
use crate::log::Level;
use crate::metrics::Kind;
use crate::{
    Code, Counts, Message, Plan, Principal, Publication, Reject, Request, Subscription, Verdict, Via, host,
};
use bindings::exports::switchyard::plugin::{connect, deliver, lifecycle, publish, room, subscribe};
use bindings::switchyard::plugin::types;
use std::cell::OnceCell;
use std::marker::PhantomData;

/// The bindings that bindgen generates from `wit/plugin.wit`.
#[allow(unsafe_code, reason = "the canonical ABI passes raw pointers; bindgen generates all of it")]
#[allow(missing_docs, unreachable_pub, reason = "bindgen generates all of it")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "switchyard_sdk::internal::bindings",
    });
}

thread_local! {
    /// The plugin. A module contains one plugin, and the host initializes each instance once.
    static INSTANCE: OnceCell<Box<dyn Instance>> = const { OnceCell::new() };
}

fn with_instance<R>(call: impl FnOnce(&dyn Instance) -> R) -> R {
    INSTANCE.with(|cell| call(cell.get().expect("the host calls `init` before any hook").as_ref()))
}

/// Implements bindgen's traits for the plugin `P`.
pub struct Component<P>(PhantomData<P>);

impl<P: Exports> lifecycle::Guest for Component<P> {
    fn describe() -> lifecycle::Info {
        let flags = [
            (Hook::Connect, types::Hooks::CONNECT),
            (Hook::Room, types::Hooks::ROOM),
            (Hook::Subscribe, types::Hooks::SUBSCRIBE),
            (Hook::Publish, types::Hooks::PUBLISH),
            (Hook::Deliver, types::Hooks::DELIVER),
        ];
        let hooks = flags.into_iter().filter(|(hook, _)| P::has(*hook));
        let metrics = P::METRICS.iter().map(|metric| lifecycle::Metric {
            id: metric.id,
            name: metric.name.to_owned(),
            kind: match metric.kind {
                Kind::Counter => lifecycle::Kind::Counter,
                Kind::Histogram => lifecycle::Kind::Histogram,
            },
        });
        lifecycle::Info {
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            hooks: hooks.fold(types::Hooks::empty(), |all, (_, flag)| all | flag),
            metrics: metrics.collect(),
            config_schema: P::config_schema(),
            filter_schema: P::filter_schema(),
        }
    }

    fn init(config: String) -> Result<(), String> {
        // Without this hook, the operator would see a panic only as an `unreachable` trap.
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.payload_as_str().unwrap_or("(no message)");
            match panic.location() {
                Some(at) => {
                    host::log(Level::Error, &format!("panicked at {}:{}: {text}", at.file(), at.line()))
                }
                None => host::log(Level::Error, &format!("panicked: {text}")),
            }
        }));
        let loaded = load::<P>(&config)?;
        INSTANCE.with(|cell| cell.set(loaded)).map_err(|_| "this instance is already initialized".to_owned())
    }
}

impl<P: Exports> connect::Guest for Component<P> {
    fn authorize(request: connect::Request) -> Result<types::Limits, types::Reject> {
        let connect::Request { principal, remote, origin, headers } = request;
        let request = Request { principal: principal.into(), remote, origin, headers };
        Ok(with_instance(|plugin| plugin.connect(&request))?.into())
    }
}

impl<P: Exports> room::Guest for Component<P> {
    fn validate(name: String) -> Result<room::Verdict, types::Reject> {
        let verdict = with_instance(|plugin| plugin.room(&name))?;
        let cache_ms = u32::try_from(verdict.cache.as_millis()).unwrap_or(u32::MAX);
        Ok(room::Verdict { canonical: verdict.canonical, cache_ms })
    }
}

impl<P: Exports> subscribe::Guest for Component<P> {
    fn authorize(
        who: types::Principal,
        room: String,
        filter: Option<String>,
        counts: subscribe::Counts,
    ) -> Result<subscribe::Grant, types::Reject> {
        let subscribe::Counts { of_connection, of_principal, in_room } = counts;
        let counts = Counts { of_connection, of_principal, in_room };
        let subscription = Subscription { who: &who.into(), room: &room, filter: filter.as_deref(), counts };
        let granted = with_instance(|plugin| plugin.subscribe(&subscription))?;
        Ok(subscribe::Grant { filter: granted.filter, limits: granted.limits.map(Into::into) })
    }
}

impl<P: Exports> publish::Guest for Component<P> {
    fn check(who: types::Principal, message: publish::Message) -> Result<publish::Verdict, types::Reject> {
        let publish::Message { room, event, data, via, idempotency_key } = message;
        let publication = Publication {
            who: &who.into(),
            message: Message { room: &room, event: &event, data: &data },
            via: match via {
                publish::Via::Websocket => Via::WebSocket,
                publish::Via::Http => Via::Http,
            },
            idempotency_key: idempotency_key.as_deref(),
        };
        Ok(match with_instance(|plugin| plugin.publish(&publication))? {
            Verdict::Pass => publish::Verdict::Pass,
            Verdict::Replace(json) => publish::Verdict::Replace(json),
            Verdict::Discard => publish::Verdict::Discard,
        })
    }
}

impl<P: Exports> deliver::Guest for Component<P> {
    fn compile(id: u32, filter: String) -> Result<deliver::Plan, String> {
        Ok(match with_instance(|plugin| plugin.compile(id, &filter))? {
            Plan::All => deliver::Plan::All,
            Plan::None => deliver::Plan::None,
            Plan::Ask => deliver::Plan::Guest,
        })
    }

    fn release(ids: Vec<u32>) {
        with_instance(|plugin| plugin.release(&ids));
    }

    fn matches(room: String, event: String, data: Vec<u8>, ids: Vec<u32>) -> Vec<u64> {
        let message = Message { room: &room, event: &event, data: &data };
        with_instance(|plugin| plugin.matches(message, &ids))
    }
}

impl From<types::Principal> for Principal {
    fn from(who: types::Principal) -> Self {
        Self { id: who.id, key_id: who.key_id, tier: who.tier, tags: who.tags }
    }
}

impl From<crate::Limits> for types::Limits {
    fn from(limits: crate::Limits) -> Self {
        let crate::Limits { rooms, publishes_per_second, message_bytes } = limits;
        Self { rooms, publishes_per_second, message_bytes }
    }
}

impl From<Reject> for types::Reject {
    fn from(reject: Reject) -> Self {
        let code = match reject.code {
            Code::Denied => types::Code::Denied,
            Code::Invalid => types::Code::Invalid,
            Code::Limit => types::Code::Limit,
            Code::TooLarge => types::Code::TooLarge,
            Code::Internal => types::Code::Internal,
        };
        Self { code, reason: reject.reason }
    }
}
