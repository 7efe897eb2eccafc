//! The macro `export!`, which turns a type into a plugin with the hooks it lists.

use crate::filters::{FilterTable, NoFilters};
use crate::{Grant, Limits, Plugin, Publication, Reject, Request, RoomVerdict, Subscription, Verdict};

/// A hook of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// See [`crate::Connect`].
    Connect,
    /// See [`crate::Room`].
    Room,
    /// See [`crate::Subscribe`].
    Subscribe,
    /// See [`crate::Publish`].
    Publish,
    /// See [`crate::Deliver`].
    Deliver,
}

/// A plugin with the hooks that it lists. The host does not call the others; by default they allow
/// everything.
pub trait Exports: Plugin {
    /// The name of the plugin's crate.
    const NAME: &'static str;
    /// The version of the plugin's crate.
    const VERSION: &'static str;
    /// The hooks that `export!` lists.
    const LISTED: &'static [Hook];

    /// See [`crate::Connect::connect`].
    fn on_connect(&self, _: &Request) -> Result<Limits, Reject> {
        Ok(Limits::default())
    }

    /// See [`crate::Room::room`].
    fn on_room(&self, _: &str) -> Result<RoomVerdict, Reject> {
        Ok(RoomVerdict::default())
    }

    /// See [`crate::Subscribe::subscribe`].
    fn on_subscribe(&self, _: &Subscription<'_>) -> Result<Grant, Reject> {
        Ok(Grant::default())
    }

    /// See [`crate::Publish::publish`].
    fn on_publish(&self, _: &Publication<'_>) -> Result<Verdict, Reject> {
        Ok(Verdict::Pass)
    }

    /// A new, empty table for the filters of one instance.
    fn filters() -> Box<dyn FilterTable<Self>> {
        Box::new(NoFilters)
    }

    /// See [`crate::Deliver::filter_schema`].
    fn filter_schema() -> Option<String> {
        None
    }

    /// Whether the host calls `hook`. Listing `deliver` includes `subscribe`, which brings filters into
    /// canonical form and rejects invalid ones early.
    fn has(hook: Hook) -> bool {
        Self::LISTED.contains(&hook) || hook == Hook::Subscribe && Self::LISTED.contains(&Hook::Deliver)
    }
}

/// Turns a crate (`crate-type = ["cdylib", "rlib"]`) into a plugin: `export!(Orderbook: publish, deliver);`
///
/// The list names the hooks whose traits the type implements: `connect`, `room`, `subscribe`, `publish`,
/// `deliver`. The host calls no others. The plugin has the name and the version of the crate. Natively, the
/// macro makes the type usable in `testing::Harness`.
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($hook:ident),+ $(,)?) => {
        impl $crate::internal::Exports for $plugin {
            const NAME: &'static str = ::core::env!("CARGO_PKG_NAME");
            const VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");
            const LISTED: &'static [$crate::internal::Hook] = &[$($crate::__hook!(name $hook)),+];
            $($crate::__hook!(call $hook);)+
        }
        $crate::__component!($plugin);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (name connect) => {
        $crate::internal::Hook::Connect
    };
    (name room) => {
        $crate::internal::Hook::Room
    };
    (name subscribe) => {
        $crate::internal::Hook::Subscribe
    };
    (name publish) => {
        $crate::internal::Hook::Publish
    };
    (name deliver) => {
        $crate::internal::Hook::Deliver
    };
    (call connect) => {
        fn on_connect(&self, request: &$crate::Request) -> Result<$crate::Limits, $crate::Reject> {
            $crate::Connect::connect(self, request)
        }
    };
    (call room) => {
        fn on_room(&self, name: &str) -> Result<$crate::RoomVerdict, $crate::Reject> {
            $crate::Room::room(self, name)
        }
    };
    (call subscribe) => {
        fn on_subscribe(&self, asked: &$crate::Subscription<'_>) -> Result<$crate::Grant, $crate::Reject> {
            $crate::Subscribe::subscribe(self, asked)
        }
    };
    (call publish) => {
        fn on_publish(
            &self,
            publication: &$crate::Publication<'_>,
        ) -> Result<$crate::Verdict, $crate::Reject> {
            $crate::Publish::publish(self, publication)
        }
    };
    (call deliver) => {
        fn filters() -> Box<dyn $crate::internal::FilterTable<Self>> {
            Box::new(<$crate::internal::Filters<Self> as Default>::default())
        }
        fn filter_schema() -> Option<String> {
            <Self as $crate::Deliver>::filter_schema()
        }
    };
    (name $other:ident) => {
        ::core::compile_error!(::core::concat!(
            "`",
            stringify!($other),
            "` is not a hook; expected connect, room, subscribe, publish or deliver"
        ))
    };
    (call $other:ident) => {};
}

/// Generates the Wasm exports for a type that implements `Exports`.
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ($plugin:ty) => {
        // Natively nobody would call these symbols, and they would clash in a test that links two plugins.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::internal::Component<$plugin>;
    $crate::internal::bindings::export_component!(Exported with_types_in $crate::internal::bindings);
        };
        // Natively only tests use the plugin. Without them, the compiler would warn about code that is never used.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(<$plugin as $crate::Plugin>::Config) -> Result<$plugin, String> =
            <$plugin as $crate::Plugin>::new;
    };
}
