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
        key => match key.split_once('\n') {
            None => Ok(key.to_owned()),
            // What `switchyard key new` prints: the key, and what to do with it.
            Some((first, _)) if is_generated_key(first.trim_end()) => Ok(first.trim_end().to_owned()),
            Some(_) => bail!(
                "{source}: several lines; expected an API key alone, or what `switchyard key new` prints, which begins \
                 with the key"
            ),
        },
    }
}

fn is_generated_key(line: &str) -> bool {
    line.strip_prefix("sk_").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
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
        // Regression: the whole text was sent as the key.
        std::fs::write(&file, format!("{}\n\nStore it safely.\n", "sk_".to_owned() + &"0".repeat(40)))
            .unwrap();
        assert_eq!(read_api_key(Some(&file)).unwrap(), "sk_".to_owned() + &"0".repeat(40));
        std::fs::write(&file, "[[key]]\nprincipal = \"acme\"\n").unwrap();
        assert!(
            read_api_key(Some(&file)).unwrap_err().to_string().contains("several lines; expected an API key")
        );
        std::fs::write(&file, "\n").unwrap();
        assert!(read_api_key(Some(&file)).unwrap_err().to_string().ends_with("empty; expected an API key"));
        std::fs::remove_file(&file).unwrap();
        assert!(read_api_key(Some(&file)).unwrap_err().to_string().contains(&file.display().to_string()));
    }
}
