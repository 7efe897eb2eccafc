//! What the environment overrides.

use super::{Config, one_line};
use std::ffi::OsString;

/// Variables of the environment, name and value.
pub type Environment = Vec<(String, String)>;

const PREFIX: &str = "SWITCHYARD_";

/// The process's own, as far as it overrides anything. The error names the variable that is no text.
pub fn environment() -> Result<Environment, String> {
    let text = |(name, value): (OsString, OsString)| {
        let shown = name.to_string_lossy().into_owned();
        path(&shown)?;
        Some(match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            (Err(_), _) => Err(format!("{shown}: the name of this variable is not text in UTF-8")),
            (_, Err(_)) => Err(format!("{shown}: its value is not text in UTF-8")),
        })
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The configuration of `text` with the variables over it. The error names the variable that is wrong.
pub(super) fn lay_over(config: Config, text: &str, environment: &Environment) -> Result<Config, String> {
    let overrides: Vec<_> =
        environment.iter().filter_map(|(name, value)| Some((path(name)?, name, value))).collect();
    if overrides.is_empty() {
        return Ok(config);
    }
    let tree: toml::Table = toml::from_str(text).expect("it was read above");
    let laid_over = |chosen: &[&(Vec<String>, &String, &String)]| {
        let mut tree = tree.clone();
        chosen.iter().try_for_each(|(path, _, value)| set(&mut tree, path, value))?;
        let config: Config = toml::from_str(&tree.to_string()).map_err(|error| one_line(error.message()))?;
        config.check().map_err(|(_, message)| message)?;
        Ok::<_, String>(config)
    };
    let all: Vec<_> = overrides.iter().collect();
    laid_over(&all).map_err(|error| {
        // Which of them is wrong? One that is wrong alone, if there is one.
        let alone = all.iter().find_map(|one| Some((one.1, laid_over(&[one]).err()?)));
        let names = || all.iter().map(|one| one.1.as_str()).collect::<Vec<_>>().join(", ");
        alone.map_or_else(|| format!("{}: {error}", names()), |(name, error)| format!("{name}: {error}"))
    })
}

/// `SWITCHYARD_SERVER__LISTEN` is server.listen. A name without `__` belongs to somebody else, such as the
/// command line's key or what a container platform sets.
fn path(name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__"))?;
    Some(rest.split("__").map(str::to_lowercase).collect())
}

fn set(table: &mut toml::Table, path: &[String], value: &str) -> Result<(), String> {
    let (last, sections) = path.split_last().expect("a path has parts");
    let mut table = table;
    for section in sections {
        let entry = table.entry(section.clone()).or_insert_with(|| toml::Table::new().into());
        table = entry.as_table_mut().ok_or(format!("'{section}' is a list; set it in the file"))?;
    }
    // What reads as TOML is TOML; all else is a string.
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| value.into());
    table.insert(last.clone(), value);
    Ok(())
}
