//! The plugin contract: which WebAssembly files implement a version of it that this host supports. All checks
//! are made before any code of the file runs.

use super::item_limits::{self, damaged};
use super::load::LoadErrorKind;
use std::borrow::Cow;
use wasmparser::{Parser, Payload};
use wasmtime::component::types;
use wit_component::ComponentEncoder;

/// The contract's package, and the version that new plugins are built against.
const PACKAGE: &str = "switchyard:plugin/";
pub(crate) const VERSION: &str = "0.2.0";

/// A minor version that plugins may be built against: that of [`VERSION`], and every older one. A new minor
/// version gets bindings of its own (`bindings.rs`), and those of older ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContractVersion {
    V0_1,
    V0_2,
}

/// Maximum size of a file in bytes. A plugin with an engine for another language has about twenty million, a
/// Rust plugin a quarter of a million.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// The interfaces that a plugin may import. `types` contains no functions.
const ALLOWED_IMPORTS: [&str; 6] = ["log", "clock", "random", "metrics", "state", "types"];

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
        return check_component_names(bytes);
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

/// Checks the versions in the names of a component's imports and exports, which are all that can be told before it
/// is compiled.
fn check_component_names(bytes: &[u8]) -> Result<(), LoadErrorKind> {
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::ComponentImportSection(section) => {
                for import in section {
                    check_version(import.map_err(damaged)?.name.name)?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    check_version(export.map_err(damaged)?.name.name)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
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

/// Checks the names of a compiled component's imports and exports. Returns the version that it was built for.
pub(crate) fn check_component(
    ty: &types::Component,
    engine: &wasmtime::Engine,
) -> Result<ContractVersion, LoadErrorKind> {
    let exports: Vec<_> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    for name in &exports {
        check_version(name)?;
    }
    let imports: Vec<_> = ty.imports(engine).map(|(name, _)| (name.to_owned(), name.to_owned())).collect();
    check_imports(&imports)?;
    let lifecycle = exports.iter().find(|name| interface(name) == Some("lifecycle"));
    match lifecycle.map(|name| check_version(name)).transpose()?.flatten() {
        Some(version) => Ok(version),
        None => Err(LoadErrorKind::MissingLifecycle),
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

/// The version in a qualified name; `None` if it is not one of the contract.
fn check_version(name: &str) -> Result<Option<ContractVersion>, LoadErrorKind> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(None) };
    let version = rest.split_once('@').map_or("", |(_, version)| version);
    match version.rsplit_once('.').map(|(minor, _)| minor) {
        Some("0.1") => Ok(Some(ContractVersion::V0_1)),
        Some("0.2") => Ok(Some(ContractVersion::V0_2)),
        _ => Err(LoadErrorKind::UnsupportedVersion { found: version.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_of_a_supported_minor_version_is_accepted() {
        let version = |name: &str| check_version(name).ok();
        let log = |version| format!("switchyard:plugin/log@{version}");
        assert_eq!(version(&log(VERSION)), Some(Some(ContractVersion::V0_2)));
        for (name, expected) in [
            (log("0.1.0"), Some(Some(ContractVersion::V0_1))),
            (log("0.1.9"), Some(Some(ContractVersion::V0_1))),
            (log("0.2.1"), Some(Some(ContractVersion::V0_2))),
            ("wasi:io/poll@9.9.9".to_owned(), Some(None)),
            (log("0.3.0"), None),
            (log("1.1.0"), None),
            ("switchyard:plugin/log".to_owned(), None),
        ] {
            assert_eq!(version(&name), expected, "{name}");
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
