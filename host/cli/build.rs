//! Prepares what `switchyard plugin new` writes into new projects: the sources of the SDK, for `--vendor`, and the
//! C bindings of the plugin contract.

use std::{
    env, fs,
    path::{Path, PathBuf},
};
use wit_bindgen_core::{Files, wit_parser::Resolve};

fn main() {
    let variable = |name: &str| PathBuf::from(env::var_os(name).expect("cargo sets it"));
    let output = variable("OUT_DIR");
    let sdk = variable("CARGO_MANIFEST_DIR").join("../../sdk").canonicalize().expect("the folder of the SDK");
    let mut files = vec!["README.md".to_owned()];
    for folder in ["src", "wit"] {
        println!("cargo::rerun-if-changed={}", sdk.join(folder).display());
        find_files(&sdk, &sdk.join(folder), &mut files);
    }
    write_table(&output.join("sdk_files.rs"), &sdk, files);
    let bindings = output.join("bindings");
    let files = generate_bindings(&sdk.join("wit/plugin.wit"), &bindings);
    write_table(&output.join("binding_files.rs"), &bindings, files);
}

/// Adds the paths of all files below `folder`, relative to `root`.
fn find_files(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => find_files(root, &path, found),
            false => {
                let relative = path.strip_prefix(root).expect("it is below the root");
                found.push(relative.to_str().expect("an ASCII name").to_owned());
            }
        }
    }
}

/// Writes a Rust expression: the path and the contents of each file in `folder`.
fn write_table(output: &Path, folder: &Path, mut files: Vec<String>) {
    files.sort();
    let mut table = "&[\n".to_owned();
    for file in files {
        table +=
            &format!("    ({file:?}, include_bytes!({:?})),\n", folder.join(&file).display().to_string());
    }
    fs::write(output, table + "]\n").expect("the folder for what is built can be written");
}

/// Writes the bindings of the contract's world `plugin`, which has all hooks, and returns the names of the
/// files.
fn generate_bindings(contract: &Path, folder: &Path) -> Vec<String> {
    let mut resolve = Resolve::default();
    let package = resolve.push_file(contract).expect("a valid contract");
    let world = resolve.select_world(&[package], Some("plugin")).expect("the world with all hooks");
    let mut files = Files::default();
    let generator = wit_bindgen_c::Opts::default().build();
    { generator }.generate(&mut resolve, world, &mut files).expect("the contract can be expressed in C");
    let (_, header) = files.iter().find(|(name, _)| *name == "plugin.h").expect("a header");
    let defaults = default_hooks(std::str::from_utf8(header).expect("the header is text"));
    files.push("default_hooks.c", defaults.as_bytes());
    fs::create_dir_all(folder).expect("the folder for what is built can be written");
    let write = |(name, contents): (&str, &[u8])| {
        fs::write(folder.join(name), contents).expect("the folder for what is built can be written");
        name.to_owned()
    };
    files.iter().map(write).collect()
}

/// C code with a function for each hook of the header, which a plugin replaces if it has the hook.
fn default_hooks(header: &str) -> String {
    let mut code = "// Stand-ins for the hooks that a plugin does not have. The linker prefers the plugin's own functions, and the\n\
                    // host calls only the hooks that `describe` lists.\n\
                    #include \"plugin.h\"\n#include <stdlib.h>\n\n\
                    #pragma clang diagnostic ignored \"-Wunused-parameter\"\n"
        .to_owned();
    let exported =
        header.lines().filter(|line| line.contains(" exports_switchyard_plugin_") && line.ends_with(");"));
    // Every plugin has the functions of `lifecycle`. The helpers that free something are not exported.
    for line in exported.filter(|line| !line.contains("_lifecycle_") && !line.contains("_free(")) {
        code += &format!("\n__attribute__((weak)) {} {{ abort(); }}\n", line.trim_end_matches(';'));
    }
    code
}
