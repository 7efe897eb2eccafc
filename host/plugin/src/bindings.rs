//! The functions that a guest exports, in the host's own types, whichever version of the contract it was
//! built for. Each version has the bindings that wasmtime generates from it, in a module of its own.

mod v0_1;
mod v0_2;

use super::contract::ContractVersion;
use super::filters::Plan;
use super::hook_types::{
    ConnectRequest, Counts, Limits, Principal, PublishRequest, Rejection, RoomVerdict, UncompiledGrant,
    Verdict,
};
use super::imports::InstanceState;
use super::load::Hooks;
use super::metrics::Metric;
use wasmtime::component::{HasSelf, Instance, InstancePre, Linker};
use wasmtime::{Result, Store};

pub(crate) type GuestStore = Store<InstanceState>;

/// What a guest says about itself.
pub(crate) struct Description {
    pub name: String,
    pub version: String,
    pub hooks: Hooks,
    pub metrics: Vec<Metric>,
    /// JSON texts.
    pub config_schema: Option<String>,
    pub filter_schema: Option<String>,
}

/// The functions of a running guest. An error means that the call failed.
pub(crate) trait GuestExports: Send {
    fn describe(&self, store: &mut GuestStore) -> Result<Description>;
    fn init(&self, store: &mut GuestStore, config: &str) -> Result<Result<(), String>>;
    fn connect(&self, store: &mut GuestStore, request: &ConnectRequest) -> Result<Result<Limits, Rejection>>;
    fn room(&self, store: &mut GuestStore, name: &str) -> Result<Result<RoomVerdict, Rejection>>;
    fn subscribe(
        &self,
        store: &mut GuestStore,
        principal: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<Result<UncompiledGrant, Rejection>>;
    fn publish(
        &self,
        store: &mut GuestStore,
        request: &PublishRequest<'_>,
    ) -> Result<Result<Verdict, Rejection>>;
    fn compile(&self, store: &mut GuestStore, id: u32, filter: &str) -> Result<Result<Plan, String>>;
    fn release(&self, store: &mut GuestStore, ids: &[u32]) -> Result<()>;
    fn matches(
        &self,
        store: &mut GuestStore,
        room: &str,
        event: &str,
        data: &[u8],
        ids: &[u32],
    ) -> Result<Vec<u64>>;
}

/// Where a compiled guest has its functions.
pub(crate) enum ExportIndices {
    V0_1(v0_1::Indices),
    V0_2(v0_2::Indices),
}

impl ExportIndices {
    pub(crate) fn new(pre: &InstancePre<InstanceState>, version: ContractVersion) -> Result<Self> {
        Ok(match version {
            ContractVersion::V0_1 => Self::V0_1(v0_1::Indices::new(pre)?),
            ContractVersion::V0_2 => Self::V0_2(v0_2::Indices::new(pre)?),
        })
    }

    /// The hooks whose interfaces the guest exports.
    pub(crate) fn hooks(&self) -> Hooks {
        match self {
            Self::V0_1(indices) => indices.hooks(),
            Self::V0_2(indices) => indices.hooks(),
        }
    }

    pub(crate) fn load(&self, store: &mut GuestStore, instance: &Instance) -> Result<Box<dyn GuestExports>> {
        Ok(match self {
            Self::V0_1(indices) => Box::new(indices.load(store, instance)?),
            Self::V0_2(indices) => Box::new(indices.load(store, instance)?),
        })
    }
}

/// Offers the imports of every version of the contract.
pub(crate) fn add_imports(linker: &mut Linker<InstanceState>) -> Result<()> {
    v0_1::Plugin::add_to_linker::<_, HasSelf<InstanceState>>(linker, |state| state)?;
    v0_2::Plugin::add_to_linker::<_, HasSelf<InstanceState>>(linker, |state| state)
}

/// The tags of a principal, borrowed as the contract's types need them.
fn tags(principal: &Principal) -> Vec<(&str, &str)> {
    pairs(&principal.tags)
}

fn pairs(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn exported<T>(interface: &Option<T>) -> Result<&T> {
    interface.as_ref().ok_or_else(|| wasmtime::Error::msg("it does not export this hook"))
}

/// What is the same in every version, for its own generated types: which interfaces there are, the imports,
/// and the conversions. A version writes the functions of [`GuestExports`] itself, because some of them
/// differ.
macro_rules! common_types {
    () => {
        use exports::switchyard::plugin::{connect, deliver, lifecycle, publish, room, subscribe};
        use switchyard::plugin::{clock, log, metrics, random, types};

        /// The indices of the exported interfaces; `None` for one that the guest does not export.
        pub(crate) struct Indices {
            lifecycle: lifecycle::GuestIndices,
            connect: Option<connect::GuestIndices>,
            room: Option<room::GuestIndices>,
            subscribe: Option<subscribe::GuestIndices>,
            publish: Option<publish::GuestIndices>,
            deliver: Option<deliver::GuestIndices>,
        }

        pub(super) struct Exports {
            lifecycle: lifecycle::Guest,
            connect: Option<connect::Guest>,
            room: Option<room::Guest>,
            subscribe: Option<subscribe::Guest>,
            publish: Option<publish::Guest>,
            deliver: Option<deliver::Guest>,
        }

        impl Indices {
            pub(super) fn new(pre: &InstancePre<InstanceState>) -> Result<Self> {
                Ok(Self {
                    lifecycle: lifecycle::GuestIndices::new(pre)?,
                    connect: connect::GuestIndices::new(pre).ok(),
                    room: room::GuestIndices::new(pre).ok(),
                    subscribe: subscribe::GuestIndices::new(pre).ok(),
                    publish: publish::GuestIndices::new(pre).ok(),
                    deliver: deliver::GuestIndices::new(pre).ok(),
                })
            }

            pub(super) fn hooks(&self) -> Hooks {
                Hooks {
                    connect: self.connect.is_some(),
                    room: self.room.is_some(),
                    subscribe: self.subscribe.is_some(),
                    publish: self.publish.is_some(),
                    deliver: self.deliver.is_some(),
                }
            }

            pub(super) fn load(&self, store: &mut GuestStore, instance: &Instance) -> Result<Exports> {
                // Each interface is loaded separately: the generated loader of the world requires all of
                // them.
                macro_rules! load {
                    ($interface:ident) => {
                        self.$interface
                            .as_ref()
                            .map(|indices| indices.load(&mut *store, instance))
                            .transpose()?
                    };
                }
                Ok(Exports {
                    lifecycle: self.lifecycle.load(&mut *store, instance)?,
                    connect: load!(connect),
                    room: load!(room),
                    subscribe: load!(subscribe),
                    publish: load!(publish),
                    deliver: load!(deliver),
                })
            }
        }

        impl log::Host for InstanceState {
            fn write(&mut self, level: log::Level, text: String) {
                self.log(
                    match level {
                        log::Level::Trace => Level::TRACE,
                        log::Level::Debug => Level::DEBUG,
                        log::Level::Info => Level::INFO,
                        log::Level::Warn => Level::WARN,
                        log::Level::Error => Level::ERROR,
                    },
                    &text,
                );
            }
        }

        impl clock::Host for InstanceState {
            fn unix_ms(&mut self) -> u64 {
                self.state.unix_ms()
            }
        }

        impl random::Host for InstanceState {
            fn seed(&mut self) -> Result<u64> {
                Ok(getrandom::u64()?)
            }
        }

        impl metrics::Host for InstanceState {
            fn count(&mut self, id: u32, by: u64) {
                self.context.metrics.count(id, by);
            }

            fn observe(&mut self, id: u32, value: f64) {
                self.context.metrics.observe(id, value);
            }
        }

        impl types::Host for InstanceState {}

        impl From<types::Hooks> for Hooks {
            fn from(flags: types::Hooks) -> Self {
                Self {
                    connect: flags.contains(types::Hooks::CONNECT),
                    room: flags.contains(types::Hooks::ROOM),
                    subscribe: flags.contains(types::Hooks::SUBSCRIBE),
                    publish: flags.contains(types::Hooks::PUBLISH),
                    deliver: flags.contains(types::Hooks::DELIVER),
                }
            }
        }

        impl From<lifecycle::Metric> for Metric {
            fn from(metric: lifecycle::Metric) -> Self {
                let kind = match metric.kind {
                    lifecycle::Kind::Counter => MetricKind::Counter,
                    lifecycle::Kind::Histogram => MetricKind::Histogram,
                };
                Self { id: metric.id, name: metric.name, kind }
            }
        }

        impl From<Counts> for subscribe::Counts {
            fn from(counts: Counts) -> Self {
                let Counts { of_connection, of_principal, in_room } = counts;
                Self { of_connection, of_principal, in_room }
            }
        }

        impl From<types::Reject> for Rejection {
            fn from(reject: types::Reject) -> Self {
                let code = match reject.code {
                    types::Code::Denied => RejectionCode::Denied,
                    types::Code::Invalid => RejectionCode::Invalid,
                    types::Code::Limit => RejectionCode::Limit,
                    types::Code::TooLarge => RejectionCode::TooLarge,
                    types::Code::Internal => RejectionCode::Failed,
                };
                Rejection::new(code, reject.reason)
            }
        }

        impl From<types::Limits> for Limits {
            fn from(limits: types::Limits) -> Self {
                let types::Limits { rooms, publishes_per_second, message_bytes } = limits;
                Self { rooms, publishes_per_second, message_bytes }
            }
        }

        impl From<room::Verdict> for RoomVerdict {
            fn from(verdict: room::Verdict) -> Self {
                Self { canonical: verdict.canonical, cache: Duration::from_millis(verdict.cache_ms.into()) }
            }
        }

        impl From<subscribe::Grant> for UncompiledGrant {
            fn from(grant: subscribe::Grant) -> Self {
                Self { filter: grant.filter, limits: grant.limits.map(Limits::from).unwrap_or_default() }
            }
        }

        impl From<publish::Verdict> for Verdict {
            fn from(verdict: publish::Verdict) -> Self {
                match verdict {
                    publish::Verdict::Pass => Self::Pass,
                    publish::Verdict::Replace(data) => Self::Replace(data),
                    publish::Verdict::Discard => Self::Discard,
                }
            }
        }

        impl From<deliver::Plan> for Plan {
            fn from(plan: deliver::Plan) -> Self {
                match plan {
                    deliver::Plan::All => Self::All,
                    deliver::Plan::None => Self::None,
                    deliver::Plan::Guest => Self::Guest,
                }
            }
        }
    };
}

/// The functions of [`GuestExports`] that are the same in every version.
macro_rules! common_functions {
    () => {
        fn init(&self, store: &mut GuestStore, config: &str) -> Result<Result<(), String>> {
            self.lifecycle.call_init(store, config)
        }

        fn room(&self, store: &mut GuestStore, name: &str) -> Result<Result<RoomVerdict, Rejection>> {
            let answer = exported(&self.room)?.call_validate(store, name)?;
            Ok(answer.map(RoomVerdict::from).map_err(Rejection::from))
        }

        fn subscribe(
            &self,
            store: &mut GuestStore,
            who: &Principal,
            room: &str,
            filter: Option<&str>,
            counts: Counts,
        ) -> Result<Result<UncompiledGrant, Rejection>> {
            let (tags, hook) = (tags(who), exported(&self.subscribe)?);
            let answer = hook.call_authorize(store, principal(who, &tags), room, filter, counts.into())?;
            Ok(answer.map(UncompiledGrant::from).map_err(Rejection::from))
        }

        fn compile(&self, store: &mut GuestStore, id: u32, filter: &str) -> Result<Result<Plan, String>> {
            Ok(exported(&self.deliver)?.call_compile(store, id, filter)?.map(Plan::from))
        }

        fn release(&self, store: &mut GuestStore, ids: &[u32]) -> Result<()> {
            exported(&self.deliver)?.call_release(store, ids)
        }

        fn matches(
            &self,
            store: &mut GuestStore,
            room: &str,
            event: &str,
            data: &[u8],
            ids: &[u32],
        ) -> Result<Vec<u64>> {
            exported(&self.deliver)?.call_matches(store, room, event, data, ids)
        }
    };
}

use {common_functions, common_types};
