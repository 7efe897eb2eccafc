//! The plugin contract: which WebAssembly files implement a version of it that this host supports. All checks
//! are made before any code of the file runs.

use super::item_limits::{self, damaged};
use super::load::LoadErrorKind;
use std::borrow::Cow;
use wasmparser::{Parser, Payload};
use wasmtime::component::types;
use wit_component::ComponentEncoder;

/// The contract's package, and the version that this host implements.
const PACKAGE: &str = "switchyard:plugin/";
pub(crate) const VERSION: &str = "0.1.0";

/// The minor versions that plugins may be built against: that of [`VERSION`], and every older one. A new
/// minor version gets bindings of its own (`bindings.rs`), and those of older ones stay.
const SUPPORTED_MINORS: [&str; 1] = ["0.1"];

/// Maximum size of a file in bytes. A plugin with an engine for another language has about twenty million, a
/// Rust plugin a quarter of a million.
pub(crate) const MAX_FILE_BYTES: usize = 64 << 20;

/// The interfaces that a plugin may import. `types` contains no functions.
const ALLOWED_IMPORTS: [&str; 5] = ["log", "clock", "random", "metrics", "types"];

/// Checks what can be checked without compiling: that the file is WebAssembly, that it uses this contract,
/// and that it does not contain too many items.
pub(crate) fn check_file(bytes: &[u8]) -> Result<(), LoadErrorKind> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(LoadErrorKind::TooLarge { size: bytes.len() });
    }
    let is_component = Parser::is_component(bytes);
    if !is_component && !Parser::is_core_wasm(bytes) {
        return Err(LoadErrorKind::NotWasm);
    }
    item_limits::check(bytes)?;
    if is_component {
        return Ok(());
    }
    let mut imports = Vec::new();
    let mut has_contract = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(damaged)?;
                    imports.push((import.module.to_owned(), format!("{}#{}", import.module, import.name)));
                }
            }
            Payload::CustomSection(section) => has_contract |= section.name().starts_with("component-type"),
            _ => {}
        }
    }
    check_imports(&imports)?;
    if has_contract { Ok(()) } else { Err(LoadErrorKind::MissingLifecycle) }
}

/// The file as a component: unchanged, or converted from the core module that a plain build produces.
pub(crate) fn component(file: &[u8]) -> Result<Cow<'_, [u8]>, LoadErrorKind> {
    if Parser::is_component(file) {
        return Ok(file.into());
    }
    // The component is validated when it is compiled.
    let encode = || ComponentEncoder::default().validate(false).module(file)?.encode();
    encode().map(Cow::from).map_err(|error| LoadErrorKind::ContractMismatch(format!("{error:#}")))
}

/// Checks the names of a compiled component's imports and exports.
pub(crate) fn check_component(ty: &types::Component, engine: &wasmtime::Engine) -> Result<(), LoadErrorKind> {
    let exports: Vec<_> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    for name in &exports {
        check_version(name)?;
    }
    let imports: Vec<_> = ty.imports(engine).map(|(name, _)| (name.to_owned(), name.to_owned())).collect();
    check_imports(&imports)?;
    match exports.iter().any(|name| interface(name) == Some("lifecycle")) {
        true => Ok(()),
        false => Err(LoadErrorKind::MissingLifecycle),
    }
}

/// `imports` are pairs: the interface, and the import as it is shown in an error.
fn check_imports(imports: &[(String, String)]) -> Result<(), LoadErrorKind> {
    for (interface, _) in imports {
        check_version(interface)?;
    }
    let is_allowed =
        |name: &str| interface(name).is_some_and(|interface| ALLOWED_IMPORTS.contains(&interface));
    let foreign: Vec<_> =
        imports.iter().filter(|(name, _)| !is_allowed(name)).map(|(_, shown)| shown.clone()).collect();
    if foreign.is_empty() { Ok(()) } else { Err(LoadErrorKind::ForeignImports(foreign)) }
}

/// The interface in a qualified name: `log` for `switchyard:plugin/log@0.1.0`.
fn interface(name: &str) -> Option<&str> {
    name.strip_prefix(PACKAGE)?.split('@').next()
}

fn check_version(name: &str) -> Result<(), LoadErrorKind> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(()) };
    let version = rest.split_once('@').map_or("", |(_, version)| version);
    match version.rsplit_once('.').is_some_and(|(minor, _)| SUPPORTED_MINORS.contains(&minor)) {
        true => Ok(()),
        false => Err(LoadErrorKind::UnsupportedVersion { found: version.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_of_a_supported_minor_version_is_accepted() {
        assert!(SUPPORTED_MINORS.iter().any(|minor| VERSION.starts_with(&format!("{minor}."))));
        for name in ["switchyard:plugin/log@0.1.0", "switchyard:plugin/log@0.1.9", "wasi:io/poll@9.9.9"] {
            assert!(check_version(name).is_ok(), "{name}");
        }
        for name in ["switchyard:plugin/log@0.2.0", "switchyard:plugin/log@1.1.0", "switchyard:plugin/log"] {
            assert!(check_version(name).is_err(), "{name}");
        }
    }

    #[test]
    fn all_foreign_imports_are_named_at_once() {
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
