//! What is logged: `RUST_LOG`, as far as it can be understood. What belongs to no module is said of the node's own modules:
//! a library that it uses says what is wrong and no more, unless it is named, since it knows no better than to log what clients send.

use std::{ffi::OsStr, str::FromStr};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// The node says itself what became of Redis.
const LIBRARIES: &str = "warn,fred=off";
const DEFAULT: &str = "info";

/// The filter for a text of `RUST_LOG`, and what is wrong with it.
pub(super) fn levels(text: Option<&OsStr>) -> (EnvFilter, Option<String>) {
    let text = text.unwrap_or_default();
    let (chosen, mut wrong) = match text.to_str() {
        Some(text) if !text.trim().is_empty() => (text, None),
        Some(_) => (DEFAULT, None),
        None => (DEFAULT, Some("RUST_LOG is not text in UTF-8".to_owned())),
    };
    let filter =
        directives(chosen).and_then(|all| EnvFilter::try_new(all).map_err(|error| error.to_string()));
    let filter = filter.unwrap_or_else(|error| {
        wrong = Some(format!("RUST_LOG '{chosen}': {error}"));
        EnvFilter::new(directives(DEFAULT).expect("it is good"))
    });
    let wrong = wrong.map(|wrong| {
        format!("{wrong}; expected e.g. \"warn\" or \"switchyard=debug\", so the default \"{DEFAULT}\" holds")
    });
    (filter, wrong)
}

fn directives(text: &str) -> Result<String, String> {
    let mut all = LIBRARIES.to_owned();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        all.push(',');
        match LevelFilter::from_str(part) {
            Ok(level) => all += &format!("{},fred=off,switchyard={level}", level.min(LevelFilter::WARN)),
            Err(_) if part.contains(['=', '[', ':']) || part.starts_with("switchyard") => all += part,
            // A filter takes it for a module, of which there is none, and nothing at all would be logged.
            Err(_) => return Err(format!("'{part}' is no level")),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_level_alone_is_that_of_the_node_and_libraries_warn_at_most() {
        for (text, expected) in [
            ("", "fred=off,switchyard=info,warn"),
            ("info", "fred=off,switchyard=info,warn"),
            ("trace", "fred=off,switchyard=trace,warn"),
            ("error", "fred=off,switchyard=error,error"),
            ("debug,hyper=trace", "fred=off,hyper=trace,switchyard=debug,warn"),
            ("switchyard::hub=debug", "switchyard::hub=debug,fred=off,warn"),
            ("info,fred=debug", "fred=debug,switchyard=info,warn"),
        ] {
            let (filter, wrong) = levels(Some(OsStr::new(text)));
            let mut shown: Vec<_> = filter.to_string().split(',').map(str::to_owned).collect();
            let mut expected: Vec<_> = expected.split(',').collect();
            shown.sort();
            expected.sort();
            assert_eq!(
                (shown, wrong),
                (expected.iter().map(|part| part.to_string()).collect(), None),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_told_and_the_default_holds() {
        let default = levels(None).0.to_string();
        for text in [&b"inf"[..], b"switchyard=lots", b"\xff", b"info,wran"] {
            let (filter, wrong) = levels(Some(OsStr::from_bytes(text)));
            assert_eq!(filter.to_string(), default);
            let wrong = wrong.expect("it is told");
            assert!(wrong.starts_with("RUST_LOG") && wrong.contains("expected e.g. \"warn\""), "{wrong}");
        }
    }
}
