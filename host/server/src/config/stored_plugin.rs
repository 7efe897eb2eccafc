//! The configuration of a plugin that operators set over HTTP, for all nodes. It has the same keys as a
//! `[[plugin]]` and is checked in the same way. Does not store it.

use super::{Config, check};
use serde_json::{Map, Value};
use std::sync::Arc;
use switchyard_plugin::{PluginConfig, Trust};
use switchyard_protocol::room::RoomPattern;

/// The keys of a `[[plugin]]` that are not settings here: the name is in the path of the call, and versions are
/// loaded instead of a file.
const OTHER_KEYS: [&str; 2] = ["name", "file"];

/// Makes a configuration of settings in JSON.
///
/// # Errors
///
/// Fails if a key is unknown or a value is invalid. The message names the key, such as `plugin.budget.call`.
pub(crate) fn parse_stored_plugin(
    name: &str,
    rooms: &[RoomPattern],
    settings: &Map<String, Value>,
    trust: &Arc<Trust>,
) -> Result<PluginConfig, String> {
    if let Some(key) = OTHER_KEYS.iter().find(|key| settings.contains_key(**key)) {
        return Err(format!("plugin.{key}: this key is only for configuration files; leave it out"));
    }
    let mut plugin = settings.clone();
    plugin.insert("name".to_owned(), name.into());
    plugin.insert("file".to_owned(), "none".into());
    plugin.insert("rooms".to_owned(), rooms.iter().map(ToString::to_string).collect());
    // TOML has no null.
    let text =
        toml::to_string(&Map::from_iter([("plugin".to_owned(), Value::from(vec![Value::from(plugin)]))]))
            .map_err(|error| format!("plugin '{name}': {error}; leave out keys that are null"))?;
    let config = Config::parse_types(&text).map_err(|mistake| mistake.message)?;
    let written = |key: &str| check::find_written(&toml::from_str(&text).ok()?, key);
    config.check(&written).map_err(|error| error.message)?;
    let plugin = config.plugins.into_iter().next().expect("the text has one plugin");
    Ok(PluginConfig { file: None, trust: trust.clone(), ..plugin })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn parse(settings: Value) -> Result<PluginConfig, String> {
        let Value::Object(settings) = settings else { panic!("not an object") };
        let rooms = [RoomPattern::try_from("dydx:*".to_owned()).unwrap()];
        parse_stored_plugin("dydx", &rooms, &settings, &Arc::default())
    }

    #[test]
    fn settings_have_the_keys_of_the_file_and_their_defaults() {
        let config = parse(json!({
            "config": {"max": 3, "of": ["a", {"b": 1.5}]}, "on_failure": "allow", "budget": {"call": "20ms"},
            "probation": "0s", "headers": ["User-Agent"],
        }))
        .unwrap();
        assert_eq!((config.name(), config.file.as_ref()), ("dydx", None));
        assert_eq!(serde_json::to_value(&config.config).unwrap(), json!({"max": 3, "of": ["a", {"b": 1.5}]}));
        assert_eq!((config.budget.call, config.probation), (Duration::from_millis(20), Duration::ZERO));
        assert_eq!(parse(json!({})).unwrap().budget, Default::default());
    }

    #[test]
    fn mistakes_are_reported_with_the_key() {
        for (settings, expected) in [
            (json!({"file": "x.wasm"}), "plugin.file: this key is only for configuration files"),
            (json!({"bugdet": {}}), "unknown key `bugdet`"),
            (
                json!({"budget": {"call": "2h"}}),
                "plugin 'dydx': budget.call must be between 1ms and 1m, got 2h",
            ),
            (json!({"budget": {"call": 2}}), "plugin.budget.call"),
            (json!({"sha256": "12"}), "plugin.sha256: invalid digest '12'"),
            (json!({"headers": ["cookie"]}), "carries credentials"),
            (json!({"config": {"a": null}}), "leave out keys that are null"),
        ] {
            let error = parse(settings.clone()).unwrap_err();
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
