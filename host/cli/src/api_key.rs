//! Where commands get their API key from: a file or the environment. It is never an argument, because every
//! user of the machine can see those.

use crate::output::note;
use anyhow::{Context, bail};
use std::{env::VarError, path::Path};
use switchyard_process::file::read_input;
use switchyard_server::config::is_world_readable;

/// The environment variable with the API key.
const VARIABLE: &str = "SWITCHYARD_KEY";

/// Reads the key from the file that `--key-file` names, or else from the environment.
pub(crate) fn read_api_key(file: Option<&Path>) -> anyhow::Result<String> {
    let (key, source) = match file {
        Some(file) => {
            let name = file.display();
            if is_world_readable(file) {
                note(format_args!(
                    "{name} contains a key, and every user of this machine can read it; run `chmod o= {name}`"
                ));
            }
            let source = format!("--key-file {name}");
            (read_input(file).with_context(|| source.clone())?, source)
        }
        None => match std::env::var(VARIABLE) {
            Ok(key) => (key, VARIABLE.to_owned()),
            Err(VarError::NotUnicode(_)) => bail!("{VARIABLE}: not valid UTF-8; expected an API key"),
            Err(VarError::NotPresent) => {
                bail!("no API key; set {VARIABLE}, or name a file that contains the key with --key-file FILE")
            }
        },
    };
    match key.trim() {
        "" => bail!("{source}: empty; expected an API key"),
        key => Ok(key.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_may_have_a_line_end_and_a_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        for text in ["sk_1\n", "\u{feff}sk_1\r\n"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_api_key(Some(&file)).unwrap(), "sk_1");
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(read_api_key(Some(&file)).unwrap_err().to_string().ends_with("empty; expected an API key"));
        std::fs::remove_file(&file).unwrap();
        assert!(read_api_key(Some(&file)).unwrap_err().to_string().contains(&file.display().to_string()));
    }
}
