//! Environment variables that override keys of the file: `SWITCHYARD_SERVER__LISTEN` overrides
//! `server.listen`.

use super::{
    Config, ConfigError, check,
    error::{LISTS_OF_TABLES, describe},
    tables,
};
use std::ffi::OsString;

/// Environment variables, as names and values.
pub type Environment = Vec<(String, String)>;

const PREFIX: &str = "SWITCHYARD_";
/// Separates the parts of a key. A variable without it does not belong to the configuration.
const SEPARATOR: &str = "__";

/// The variables of this process that override the configuration.
///
/// # Errors
///
/// Fails if the name or the value of one of them is not valid UTF-8.
pub fn read_environment() -> Result<Environment, ConfigError> {
    let decode = |(name, value): (OsString, OsString)| {
        let shown = name.to_string_lossy().into_owned();
        key_path(&shown)?;
        Some(match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            (Err(_), _) => Err(ConfigError::variable(shown, "the name of this variable is not valid UTF-8")),
            (_, Err(_)) => Err(ConfigError::variable(shown, "the value of this variable is not valid UTF-8")),
        })
    };
    std::env::vars_os().filter_map(decode).collect()
}

/// An override: the path of the key, and the name and value of the variable.
type Override<'a> = (Vec<String>, &'a str, &'a str);

/// Applies the variables to `config`, which was parsed from `text`.
pub(super) fn apply_overrides(
    config: Config,
    text: &str,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let overrides: Vec<Override> =
        environment.iter().filter_map(|(name, value)| Some((key_path(name)?, &**name, &**value))).collect();
    if overrides.is_empty() {
        return Ok(config);
    }
    let file: toml::Table = toml::from_str(text).expect("the text was parsed before");
    apply(&file, &overrides).map_err(|error| {
        // Usually a single variable is invalid by itself; otherwise the error is about their combination.
        let invalid_alone =
            overrides.iter().find_map(|one| Some((one.1, apply(&file, std::slice::from_ref(one)).err()?)));
        match invalid_alone {
            Some((name, error)) => ConfigError::variable(name, &error.to_string()),
            None => {
                let names: Vec<_> = overrides.iter().map(|(_, name, _)| *name).collect();
                ConfigError::variable(names.join(", "), &error.to_string())
            }
        }
    })
}

/// Why an override cannot be applied. The message does not name the variable.
#[derive(Debug, thiserror::Error)]
enum OverrideError {
    #[error("[[{0}]] is a list of tables, which can only be set in the file")]
    ListOfTables(String),
    #[error("'{0}' is not a section of the configuration")]
    NotASection(String),
    /// The parser or a check rejects the value, with this message.
    #[error("{0}")]
    Invalid(String),
}

/// The configuration of the file with these overrides.
fn apply(file: &toml::Table, overrides: &[Override]) -> Result<Config, OverrideError> {
    let mut table = file.clone();
    overrides.iter().try_for_each(|(path, _, value)| set(&mut table, path, value))?;
    let text = table.to_string();
    if let Some((_, message)) = tables::find_list(&text) {
        return Err(OverrideError::Invalid(message));
    }
    let config: Config =
        toml::from_str(&text).map_err(|error| OverrideError::Invalid(describe(&text, &error).1))?;
    let written = |name: &str| check::find_written(&table, name);
    config.check(&written).map_err(|error| OverrideError::Invalid(error.message))?;
    Ok(config)
}

/// The key that a variable overrides, in its parts; `None` for a variable that has another purpose, such as
/// the key of the command line or what a container platform sets.
fn key_path(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix(PREFIX).filter(|key| key.contains(SEPARATOR))?;
    Some(key.split(SEPARATOR).map(str::to_lowercase).collect())
}

fn set(file: &mut toml::Table, path: &[String], value: &str) -> Result<(), OverrideError> {
    let (key, sections) = path.split_last().expect("a path has at least one part");
    // A single variable cannot describe these.
    if let Some(list) = sections.first().filter(|section| LISTS_OF_TABLES.contains(&&***section)) {
        return Err(OverrideError::ListOfTables(list.clone()));
    }
    let mut table = file;
    for section in sections {
        let entry = table.entry(section.clone()).or_insert_with(|| toml::Table::new().into());
        table = entry.as_table_mut().ok_or_else(|| OverrideError::NotASection(section.clone()))?;
    }
    // A value that is valid TOML is read as TOML, any other as a string.
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| value.into());
    table.insert(key.clone(), value);
    Ok(())
}
