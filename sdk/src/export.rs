//! `export!`: which hooks a plugin has.

use crate::filters::{FilterTable, NoFilters};
use crate::{Grant, Limits, Message, Plugin, Reject, Request, RoomVerdict, Subscription, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Connect,
    Room,
    Subscribe,
    Publish,
    Deliver,
}

/// A plugin with the hooks that it lists. The others answer as if they were not there; the host does not
/// call them.
pub trait Exports: Plugin {
    const NAME: &'static str;
    const VERSION: &'static str;
    const LISTED: &'static [Hook];

    fn on_connect(&self, _: &Request) -> Result<Limits, Reject> {
        Ok(Limits::default())
    }

    fn on_room(&self, _: &str) -> Result<RoomVerdict, Reject> {
        Ok(RoomVerdict::default())
    }

    fn on_subscribe(&self, _: &Subscription<'_>) -> Result<Grant, Reject> {
        Ok(Grant::default())
    }

    fn on_publish(&self, _: &str, _: Message<'_>) -> Result<Verdict, Reject> {
        Ok(Verdict::Pass)
    }

    fn filters() -> Box<dyn FilterTable<Self>> {
        Box::new(NoFilters)
    }

    /// `deliver` brings `subscribe` with it, which makes filters canonical and refuses wrong ones early.
    fn has(hook: Hook) -> bool {
        Self::LISTED.contains(&hook) || hook == Hook::Subscribe && Self::LISTED.contains(&Hook::Deliver)
    }
}

/// Makes a crate (`crate-type = ["cdylib", "rlib"]`) a plugin: `export!(Orderbook: publish, deliver);`
///
/// The list holds the hooks, of which the type implements the traits: `connect`, `room`, `subscribe`,
/// `publish`, `deliver`. Name and version are those of the crate. Natively this makes the type usable in
/// [`crate::testing::Harness`].
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
            who: &str,
            message: $crate::Message<'_>,
        ) -> Result<$crate::Verdict, $crate::Reject> {
            $crate::Publish::publish(self, who, message)
        }
    };
    (call deliver) => {
        fn filters() -> Box<dyn $crate::internal::FilterTable<Self>> {
            Box::new(<$crate::internal::Filters<Self> as Default>::default())
        }
    };
    (name $other:ident) => {
        ::core::compile_error!(::core::concat!(
            "`",
            stringify!($other),
            "` is no hook; they are connect, room, subscribe, publish, deliver"
        ))
    };
    (call $other:ident) => {};
}

/// The Wasm exports of a type that is `Exports`.
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ($plugin:ty) => {
        // Natively these would be symbols that nobody calls, and twice the same in a test that links two plugins.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::internal::Component<$plugin>;
    $crate::internal::bindings::export_component!(Exported with_types_in $crate::internal::bindings);
        };
    };
}
