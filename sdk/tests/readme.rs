//! The README's first plugin is a file that is compiled and tested, not a text that resembles one.

#[test]
fn the_first_plugin_of_the_readme_is_the_tested_one() {
    let readme = include_str!("../README.md");
    assert!(readme.contains(include_str!("first_plugin.rs")), "copy tests/first_plugin.rs into README.md");
}
