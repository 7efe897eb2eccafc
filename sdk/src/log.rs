//! The host's log. Each line appears there under the plugin's name. Never log keys or message data.

use crate::host;
use std::fmt;

/// The severity of a line, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step, for debugging.
    Trace,
    /// Details for the plugin's author.
    Debug,
    /// Normal events that an operator may want to see.
    Info,
    /// Something is wrong, but the plugin copes.
    Warn,
    /// The plugin cannot do what it should.
    Error,
}

/// Writes one line. Usually called through the macros [`crate::trace!`] to [`crate::error!`].
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    match text.as_str() {
        Some(text) => host::log(level, text),
        None => host::log(level, &text.to_string()),
    }
}

macro_rules! levels {
    ($dollar:tt $($name:ident $level:ident),*) => {$(
        #[doc = concat!("Writes a formatted line to the host's log at level `", stringify!($name), "`.")]
        #[macro_export]
        macro_rules! $name {
            ($dollar($dollar text:tt)+) => {
                $crate::log::write($crate::log::Level::$level, ::core::format_args!($dollar($dollar text)+))
            };
        }
    )*};
}

levels!($ trace Trace, debug Debug, info Info, warn Warn, error Error);
