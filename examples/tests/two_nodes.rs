//! The configuration for containers, which no test can start, is valid and has the same rooms as the demo.

use std::path::{Path, PathBuf};
use switchyard_server::config::{Config, Environment};

fn load(name: &str) -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut config = Config::load(Some(&file), &Environment::default()).expect("a valid configuration");
    // The two configurations have the plugins in different folders.
    config.plugins.iter_mut().for_each(|plugin| {
        plugin.file = plugin.file.as_ref().and_then(|file| file.file_name()).map(PathBuf::from);
    });
    config
}

#[test]
fn both_configurations_have_the_same_rooms_and_plugins() {
    let (two, demo) = (load("two-nodes/switchyard.toml"), load("demo/switchyard.toml"));
    assert_eq!(format!("{:?}", two.rooms), format!("{:?}", demo.rooms));
    assert_eq!(two.plugins.len(), 3);
    for (two, demo) in two.plugins.iter().zip(&demo.plugins) {
        assert_eq!(two.name(), demo.name());
        assert_eq!((&two.file, &two.rooms, &two.config), (&demo.file, &demo.rooms, &demo.config));
    }
}
