//! Finds as many mistakes in a configuration as can be told independently of each other: one in each section,
//! or, if all sections are valid, everything that the checks find. Corrects nothing.

use super::{Config, ConfigError, Environment, check, file::ConfigFile, line_number};
use std::{ops::Range, path::Path};

/// Maximum number of mistakes that are reported at a time.
const MAX_REPORTED_MISTAKES: usize = 100;

impl ConfigFile {
    /// Like [`parse`](Self::parse), but reports up to a hundred mistakes instead of the first one.
    ///
    /// # Errors
    ///
    /// Fails if the text or a variable is invalid. There is at least one error then.
    pub fn parse_whole(&self, environment: &Environment) -> Result<Config, Vec<ConfigError>> {
        self.parse(environment).map_err(|first| {
            let mut mistakes = find_mistakes(self.text(), self.path());
            if mistakes.is_empty() {
                mistakes.push(first);
            }
            mistakes
        })
    }
}

/// Empty if the text is not TOML, or if nothing is wrong with it.
fn find_mistakes(text: &str, file: &Path) -> Vec<ConfigError> {
    let Ok(table) = toml::from_str::<toml::Table>(text) else { return vec![] };
    let error = |at: usize, message: &str| {
        ConfigError::content(format!("{}:{}", file.display(), line_number(text, at)), message)
    };
    if let Ok(config) = Config::parse_types(text) {
        let written = |name: &str| check::find_written(&table, name);
        let found = config.find_errors(&written).into_iter().take(MAX_REPORTED_MISTAKES);
        return found.map(|found| error(found.location.find(text).start, &found.message)).collect();
    }
    let in_section = |section: Range<usize>| {
        let part = &text[section.clone()];
        // A line inside of a value looked like a header.
        toml::from_str::<toml::Table>(part).ok()?;
        let mistake = Config::parse_types(part).err()?;
        Some(error(section.start + mistake.span.map_or(0, |span| span.start), &mistake.message))
    };
    sections(text).into_iter().filter_map(in_section).take(MAX_REPORTED_MISTAKES).collect()
}

/// The parts of a text that can be parsed by themselves: what is before the first header, and each section with
/// the headers below it that belong to the same item of a list.
fn sections(text: &str) -> Vec<Range<usize>> {
    let (mut starts, mut root, mut at) = (vec![0], String::new(), 0);
    for line in text.split_inclusive('\n') {
        let header = line.split('#').next().unwrap_or_default().trim();
        if header.starts_with('[') && header.ends_with(']') {
            let name = header.trim_matches(['[', ']', ' ']);
            let is_item = header.starts_with("[[");
            let belongs_to_item = !is_item && !root.is_empty() && name.split('.').next() == Some(&root);
            if !belongs_to_item {
                starts.push(at);
                root = if is_item { name.to_owned() } else { String::new() };
            }
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        find_mistakes(text, Path::new("s.toml")).iter().map(ToString::to_string).collect()
    }

    fn assert_starts(found: &[String], expected: &[&str]) {
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn one_mistake_of_each_section_is_reported_with_its_line() {
        let text = "[server]\nlsten = 1\n\n[[key]]\nprincipal = \"a\"\n[[key]]\ndigest = 1\n\n\
                    [[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"p\"]\n[plugin.budget]\ncall = 7\n\
                    [tier.a]\nrooms = \"x\"\n[tier.b]\nrooms = 1\n[session]\nttl = [\n  \"1\"\n]\n";
        assert_starts(
            &mistakes(text),
            &[
                "s.toml:2: server: unknown key `lsten`",
                "s.toml:4: key.digest is missing",
                "s.toml:7: key.digest: invalid type: integer `1`",
                "s.toml:14: plugin.budget.call: invalid type: integer `7`",
                "s.toml:16: tier.a.rooms: invalid type: string",
                "s.toml:20: session.ttl: invalid type: list",
            ],
        );
    }

    #[test]
    fn everything_that_the_checks_find_is_reported() {
        let key = |digit: &str, tier: &str| {
            let digest = digit.repeat(64);
            format!(
                "[[key]]\ndigest = \"sha256:{digest}\"\nprincipal = \"a\"\nscopes = []\ntier = \"{tier}\"\n"
            )
        };
        let text = format!("[session]\nttl = \"99y\"\n{}{}", key("0", "gold"), key("1", "silver"));
        assert_starts(
            &mistakes(&text),
            &[
                "s.toml:2: session.ttl must be between",
                "s.toml:7: key.tier: tier 'gold' is not configured",
                "s.toml:12: key.tier: tier 'silver' is not configured",
            ],
        );
    }

    #[test]
    fn what_is_no_toml_or_is_valid_has_no_list_of_mistakes() {
        assert_starts(&mistakes("[server\n[key]"), &[]);
        assert_starts(&mistakes("[rooms]\nungoverned = \"open\""), &[]);
    }
}
