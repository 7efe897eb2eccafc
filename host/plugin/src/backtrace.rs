//! The guest's stack at a trap: function names as the plugin's author knows them.

use super::hook_types::clip;
use wasmtime::{Error, WasmBacktrace};

/// Maximum length of a function name, in bytes. Names of generic functions are long, and their beginning is
/// enough.
const MAX_NAME_BYTES: usize = 120;

/// How often a function must appear in a trace to count as recursion.
const RECURSION_COUNT: usize = 5;

/// Prefixes of the functions on top of the stack of every Rust panic.
const PANIC_PREFIXES: [&str; 4] =
    ["__rustc::", "std::panicking::", "std::sys::backtrace::", "core::panicking::"];

/// Names of the innermost functions (wasmtime keeps 20), innermost first. Empty if no guest code was running.
pub(crate) fn function_names(error: &Error) -> Vec<String> {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    // Wasmtime demangles names only when it prints the trace, as `  0:   0x7e4 - module!name`.
    let name = |line: &str| line.split_once('!').map(|(_, name)| clip(&strip_hashes(name), MAX_NAME_BYTES));
    trace.to_string().lines().filter_map(name).collect()
}

/// Whether one function makes up much of the trace.
pub(crate) fn is_recursive(trace: &[String]) -> bool {
    trace.iter().any(|name| trace.iter().filter(|other| *other == name).count() >= RECURSION_COUNT)
}

/// Removes the functions of a panic, and replaces repeated names by one with a count.
pub(crate) fn shorten(trace: Vec<String>) -> Vec<String> {
    let is_panic = |name: &String| PANIC_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let guest: Vec<_> = trace.into_iter().skip_while(is_panic).collect();
    let count = |run: &[String]| match run {
        [name] => name.clone(),
        run => format!("{} ({} times)", run[0], run.len()),
    };
    guest.chunk_by(|a, b| a == b).map(count).collect()
}

/// A Rust symbol without its hashes: `::h` and 16 digits at the end, or `[` 16 digits `]` after each crate.
fn strip_hashes(name: &str) -> String {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let name = match name.rsplit_once("::h") {
        Some((path, hash)) if is_hash(hash) => path,
        _ => name,
    };
    let mut parts = name.split('[');
    let mut stripped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((hash, rest)) if is_hash(hash) => stripped.push_str(rest),
            _ => {
                stripped.push('[');
                stripped.push_str(part);
            }
        }
    }
    stripped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_the_source_code() {
        for (symbol, name) in [
            ("guest::run::h0123456789abcdef", "guest::run"),
            (
                "<std[0123456789abcdef]::io::Error as core[0123456789abcdef]::fmt::Debug>::fmt",
                "<std::io::Error as core::fmt::Debug>::fmt",
            ),
            ("guest::sum::<[u8; 4]>", "guest::sum::<[u8; 4]>"),
            ("switchyard:plugin/publish@0.1.0#check", "switchyard:plugin/publish@0.1.0#check"),
        ] {
            assert_eq!(strip_hashes(symbol), name);
        }
    }

    #[test]
    fn a_trace_omits_panic_functions_and_counts_repetitions() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let trace = names(&["__rustc::rust_panic", "core::panicking::panic_fmt", "a", "b", "b", "b", "a"]);
        assert_eq!(shorten(trace), ["a", "b (3 times)", "a"]);
        assert!(!is_recursive(&names(&["a", "b", "a", "a", "a"])));
        assert!(is_recursive(&names(&["a", "b", "a", "b", "a", "b", "a", "b", "a"])));
    }
}
