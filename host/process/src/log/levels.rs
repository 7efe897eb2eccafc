//! Which levels are logged: the filter of `RUST_LOG`. A level without a module applies to the node's own
//! modules only. Libraries log warnings and errors, unless they are named, because at other levels they may
//! log what clients send. The audit log is written with every level but `off`, unless it is named.

use std::{ffi::OsStr, str::FromStr};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// What holds unless it is named. The node reports itself what happens to Redis, and audit lines are also written if only
/// warnings are logged.
const DEFAULT_DIRECTIVES: &str = "warn,fred=off,switchyard::audit=info";
/// The value of `RUST_LOG` if there is none, or an invalid one.
const DEFAULT: &str = "info";

/// The filter for a value of `RUST_LOG`, and a message if the value is invalid.
pub(super) fn filter_of(text: Option<&OsStr>) -> (EnvFilter, Option<String>) {
    let text = text.unwrap_or_default();
    let (chosen, mut problem) = match text.to_str() {
        Some(text) if !text.trim().is_empty() => (text, None),
        Some(_) => (DEFAULT, None),
        None => (DEFAULT, Some("RUST_LOG is not valid UTF-8".to_owned())),
    };
    let filter =
        directives(chosen).and_then(|all| EnvFilter::try_new(all).map_err(|error| error.to_string()));
    let filter = filter.unwrap_or_else(|error| {
        problem = Some(format!("RUST_LOG '{chosen}': {error}"));
        EnvFilter::new(directives(DEFAULT).expect("the default is valid"))
    });
    let problem = problem.map(|problem| {
        format!(r#"{problem}; expected something like "warn" or "switchyard=debug"; using the default "{DEFAULT}""#)
    });
    (filter, problem)
}

fn directives(text: &str) -> Result<String, String> {
    let mut all = DEFAULT_DIRECTIVES.to_owned();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        all.push(',');
        match LevelFilter::from_str(part) {
            Ok(LevelFilter::OFF) => all += "off,fred=off,switchyard=off,switchyard::audit=off",
            Ok(level) => all += &format!("{},fred=off,switchyard={level}", level.min(LevelFilter::WARN)),
            Err(_) if part.contains(['=', '[', ':']) || part.starts_with("switchyard") => all += part,
            // `EnvFilter` would take it for a module, which does not exist, and nothing at all would be logged.
            Err(_) => return Err(format!("unknown level '{part}'")),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_level_without_a_module_applies_to_the_node_only() {
        for (text, expected) in [
            ("", "switchyard::audit=info,fred=off,switchyard=info,warn"),
            ("info", "switchyard::audit=info,fred=off,switchyard=info,warn"),
            ("trace", "switchyard::audit=info,fred=off,switchyard=trace,warn"),
            ("error", "switchyard::audit=info,fred=off,switchyard=error,error"),
            ("debug,hyper=trace", "switchyard::audit=info,fred=off,hyper=trace,switchyard=debug,warn"),
            (
                "switchyard_server::hub=debug",
                "switchyard::audit=info,switchyard_server::hub=debug,fred=off,warn",
            ),
            ("info,fred=debug", "switchyard::audit=info,fred=debug,switchyard=info,warn"),
            // The audit log is written with any level, unless it is named or nothing is logged.
            ("off", "switchyard::audit=off,fred=off,switchyard=off,off"),
            ("warn,switchyard::audit=off", "switchyard::audit=off,fred=off,switchyard=warn,warn"),
        ] {
            let (filter, problem) = filter_of(Some(OsStr::new(text)));
            let mut shown: Vec<_> = filter.to_string().split(',').map(str::to_owned).collect();
            let mut expected: Vec<_> = expected.split(',').collect();
            shown.sort();
            expected.sort();
            assert_eq!(
                (shown, problem),
                (expected.iter().map(|part| part.to_string()).collect(), None),
                "{text}"
            );
        }
    }

    #[test]
    fn an_invalid_value_is_reported_and_the_default_is_used() {
        let default = filter_of(None).0.to_string();
        for text in [&b"inf"[..], b"switchyard=lots", b"\xff", b"info,wran"] {
            let (filter, problem) = filter_of(Some(OsStr::from_bytes(text)));
            assert_eq!(filter.to_string(), default);
            let problem = problem.expect("a message");
            assert!(
                problem.starts_with("RUST_LOG") && problem.contains("expected something like \"warn\""),
                "{problem}"
            );
        }
    }
}
