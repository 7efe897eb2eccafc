//! Which WebAssembly files are plugins of this contract, found out before anything of them runs.

use super::extent::{self, damaged};
use super::load::LoadFault;
use std::borrow::Cow;
use wasmparser::{Parser, Payload};
use wasmtime::component::types;
use wit_component::ComponentEncoder;

/// The contract's package, and the version that this host speaks.
const PACKAGE: &str = "switchyard:plugin/";
pub(crate) const VERSION: &str = "0.1.0";

/// The minors that plugins may be built against: that of [`VERSION`], and every older one. A new minor comes with bindings of
/// its own (`bindings.rs`), and those of the older ones stay.
const SPOKEN: [&str; 1] = ["0.1"];

/// Bytes of a file. An engine for another language has some twenty million, a Rust plugin a quarter of one.
pub(crate) const LARGEST: usize = 64 << 20;

/// The interfaces that a plugin may import; `types` holds no functions.
const IMPORTS: [&str; 5] = ["log", "clock", "random", "metrics", "types"];

/// What can be told of a file without compiling it: whether it is WebAssembly of this contract, and not too much of it.
pub(crate) fn check_file(bytes: &[u8]) -> Result<(), LoadFault> {
    if bytes.len() > LARGEST {
        return Err(LoadFault::TooLarge { size: bytes.len() });
    }
    let is_component = Parser::is_component(bytes);
    if !is_component && !Parser::is_core_wasm(bytes) {
        return Err(LoadFault::NotWasm);
    }
    extent::check(bytes)?;
    if is_component {
        return Ok(());
    }
    let mut imports = Vec::new();
    let mut described = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(damaged)?;
                    imports.push((import.module.to_owned(), format!("{}#{}", import.module, import.name)));
                }
            }
            Payload::CustomSection(section) => described |= section.name().starts_with("component-type"),
            _ => {}
        }
    }
    check_imports(&imports)?;
    if described { Ok(()) } else { Err(LoadFault::NoContract) }
}

/// A file as a component: as it is, or made from the core module that a plain build gives.
pub(crate) fn component(file: &[u8]) -> Result<Cow<'_, [u8]>, LoadFault> {
    if Parser::is_component(file) {
        return Ok(file.into());
    }
    // Validated when it is compiled.
    let encode = || ComponentEncoder::default().validate(false).module(file)?.encode();
    encode().map(Cow::from).map_err(|error| LoadFault::Shape(format!("{error:#}")))
}

/// Checks what a compiled component imports and exports by name.
pub(crate) fn check(ty: &types::Component, engine: &wasmtime::Engine) -> Result<(), LoadFault> {
    let exports: Vec<_> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    for name in &exports {
        check_version(name)?;
    }
    let imports: Vec<_> = ty.imports(engine).map(|(name, _)| (name.to_owned(), name.to_owned())).collect();
    check_imports(&imports)?;
    match exports.iter().any(|name| interface(name) == Some("lifecycle")) {
        true => Ok(()),
        false => Err(LoadFault::NoContract),
    }
}

/// `imports` are pairs of an interface and how to name the import to people.
fn check_imports(imports: &[(String, String)]) -> Result<(), LoadFault> {
    for (interface, _) in imports {
        check_version(interface)?;
    }
    let known = |name: &str| interface(name).is_some_and(|interface| IMPORTS.contains(&interface));
    let foreign: Vec<_> =
        imports.iter().filter(|(name, _)| !known(name)).map(|(_, shown)| shown.clone()).collect();
    if foreign.is_empty() { Ok(()) } else { Err(LoadFault::Imports(foreign)) }
}

/// `log` of `switchyard:plugin/log@0.1.0`.
fn interface(name: &str) -> Option<&str> {
    name.strip_prefix(PACKAGE)?.split('@').next()
}

fn check_version(name: &str) -> Result<(), LoadFault> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(()) };
    let version = rest.split_once('@').map_or("", |(_, version)| version);
    match version.rsplit_once('.').is_some_and(|(minor, _)| SPOKEN.contains(&minor)) {
        true => Ok(()),
        false => Err(LoadFault::Version { found: version.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_patch_of_a_spoken_minor_is_good() {
        assert!(SPOKEN.iter().any(|minor| VERSION.starts_with(&format!("{minor}."))));
        for name in ["switchyard:plugin/log@0.1.0", "switchyard:plugin/log@0.1.9", "wasi:io/poll@9.9.9"] {
            assert!(check_version(name).is_ok(), "{name}");
        }
        for name in ["switchyard:plugin/log@0.2.0", "switchyard:plugin/log@1.1.0", "switchyard:plugin/log"] {
            assert!(check_version(name).is_err(), "{name}");
        }
    }

    #[test]
    fn foreign_imports_are_named_all_at_once() {
        let import = |module: &str, name: &str| (module.to_owned(), format!("{module}#{name}"));
        let imports = [
            import("switchyard:plugin/log@0.1.0", "write"),
            import("wasi_snapshot_preview1", "fd_write"),
            import("switchyard:plugin/files@0.1.0", "open"),
        ];
        let error = check_imports(&imports).unwrap_err().to_string();
        assert!(
            error.contains("wasi_snapshot_preview1#fd_write, switchyard:plugin/files@0.1.0#open"),
            "{error}"
        );
        assert!(!error.contains("log@0.1.0#write"), "{error}");
    }
}
