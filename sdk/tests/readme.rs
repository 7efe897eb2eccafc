//! The first plugin in the README is the file `first_plugin.rs`, which is compiled and tested.

#[test]
fn the_readme_shows_the_first_plugin_that_is_tested() {
    let readme = include_str!("../README.md");
    assert!(readme.contains(include_str!("first_plugin.rs")), "copy tests/first_plugin.rs into README.md");
}
