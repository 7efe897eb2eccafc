//! `switchyard plugin bindings`: writes the C bindings of this program's contract.

use crate::{count::counted, output::print_line};
use anyhow::Context;
use clap::Args;
use std::{fs, path::PathBuf};

#[derive(Args)]
pub(crate) struct BindingsArgs {
    /// The folder to write the bindings to
    #[arg(value_name = "FOLDER", default_value = "bindings")]
    folder: PathBuf,
}

/// The name and the contents of each file, as `build.rs` generated them.
pub(super) const BINDING_FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/binding_files.rs"));

pub(super) fn run(args: BindingsArgs) -> anyhow::Result<()> {
    let folder = args.folder.display();
    fs::create_dir_all(&args.folder).with_context(|| format!("FOLDER: {folder}"))?;
    for (name, contents) in BINDING_FILES {
        fs::write(args.folder.join(name), contents).with_context(|| format!("FOLDER: {folder}/{name}"))?;
    }
    print_line!("wrote {} to {folder}", counted(BINDING_FILES.len() as u64, "file"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::wit::CONTRACT;

    #[test]
    fn every_hook_has_a_default_and_the_functions_of_lifecycle_have_none() {
        let (_, defaults) = BINDING_FILES.iter().find(|(name, _)| *name == "default_hooks.c").unwrap();
        let defaults = std::str::from_utf8(defaults).unwrap();
        for hook in
            ["connect_authorize", "room_validate", "subscribe_authorize", "publish_check", "deliver_matches"]
        {
            assert!(CONTRACT.contains(hook.split_once('_').unwrap().1));
            assert_eq!(defaults.matches(&format!(" exports_switchyard_plugin_{hook}(")).count(), 1, "{hook}");
        }
        assert!(!defaults.contains("lifecycle") && !defaults.contains("_free"), "{defaults}");
    }
}
