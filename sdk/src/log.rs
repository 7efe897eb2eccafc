//! Lines in the host's log, each under the plugin's name. Never write keys or message data there.

use crate::host;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes one line; the macros [`crate::trace!`] to [`crate::error!`] format into it.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    match text.as_str() {
        Some(text) => host::log(level, text),
        None => host::log(level, &text.to_string()),
    }
}

macro_rules! levels {
    ($dollar:tt $($name:ident $level:ident),*) => {$(
        #[doc = concat!("Formats a line for the host's log at level `", stringify!($name), "`.")]
        #[macro_export]
        macro_rules! $name {
            ($dollar($dollar text:tt)+) => {
                $crate::log::write($crate::log::Level::$level, ::core::format_args!($dollar($dollar text)+))
            };
        }
    )*};
}

levels!($ trace Trace, debug Debug, info Info, warn Warn, error Error);
