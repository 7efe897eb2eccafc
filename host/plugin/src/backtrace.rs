//! The guest's functions at a trap, as its author knows them.

use super::answers::clip;
use wasmtime::{Error, WasmBacktrace};

/// Bytes of a function's name: those of generic code are long, and the beginning tells.
const MAX_NAME: usize = 120;

/// How the functions begin that every panic ends in.
const PANIC: [&str; 4] = ["__rustc::", "std::panicking::", "std::sys::backtrace::", "core::panicking::"];

/// Names of the innermost functions (wasmtime keeps 20), innermost first; empty if nothing ran.
pub(crate) fn read(error: &Error) -> Vec<String> {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    // As wasmtime prints them, since only then it demangles: `  0:   0x7e4 - module!name`.
    let name = |line: &str| line.split_once('!').map(|(_, name)| clip(&tidy(name), MAX_NAME));
    trace.to_string().lines().filter_map(name).collect()
}

/// Whether one function makes up much of the trace.
pub(crate) fn recurses(trace: &[String]) -> bool {
    trace.iter().any(|name| trace.iter().filter(|other| *other == name).count() >= 5)
}

/// Without the functions of a panic, and with repetition counted.
pub(crate) fn shorten(trace: Vec<String>) -> Vec<String> {
    let guest: Vec<_> =
        trace.into_iter().skip_while(|name| PANIC.iter().any(|start| name.starts_with(start))).collect();
    let count = |run: &[String]| match run {
        [name] => name.clone(),
        run => format!("{} ({} times)", run[0], run.len()),
    };
    guest.chunk_by(|a, b| a == b).map(count).collect()
}

/// A Rust symbol without its hashes: `::h` and 16 digits at the end, or `[` 16 digits `]` after each crate.
fn tidy(name: &str) -> String {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let name = match name.rsplit_once("::h") {
        Some((path, hash)) if is_hash(hash) => path,
        _ => name,
    };
    let mut parts = name.split('[');
    let mut tidy = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((hash, rest)) if is_hash(hash) => tidy.push_str(rest),
            _ => {
                tidy.push('[');
                tidy.push_str(part);
            }
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        for (symbol, name) in [
            ("guest::run::h0123456789abcdef", "guest::run"),
            (
                "<std[0123456789abcdef]::io::Error as core[0123456789abcdef]::fmt::Debug>::fmt",
                "<std::io::Error as core::fmt::Debug>::fmt",
            ),
            ("guest::sum::<[u8; 4]>", "guest::sum::<[u8; 4]>"),
            ("switchyard:plugin/publish@0.1.0#check", "switchyard:plugin/publish@0.1.0#check"),
        ] {
            assert_eq!(tidy(symbol), name);
        }
    }

    #[test]
    fn a_trace_is_as_short_as_it_can_be() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let trace = names(&["__rustc::rust_panic", "core::panicking::panic_fmt", "a", "b", "b", "b", "a"]);
        assert_eq!(shorten(trace), ["a", "b (3 times)", "a"]);
        assert!(!recurses(&names(&["a", "b", "a", "a", "a"])));
        assert!(recurses(&names(&["a", "b", "a", "b", "a", "b", "a", "b", "a"])));
    }
}
