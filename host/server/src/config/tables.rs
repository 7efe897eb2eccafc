//! Finds a list where a table is expected. Serde would take its items for the values of the table's keys, by
//! position. Parses no values.

use super::shape::expected_shape;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// The tables of a configuration that have named keys. `*` stands for every item of a list, or every table in a
/// table.
const TABLES: [&str; 22] = [
    "server",
    "server.tls",
    "admin",
    "store",
    "rooms",
    "rooms.history",
    "session",
    "session.heartbeat",
    "limits",
    "limits.address",
    "memory",
    "signatures",
    "cache",
    "room.*",
    "room.*.history",
    "key.*",
    "key.*.tags",
    "issuer.*",
    "issuer.*.claims",
    "tier.*",
    "plugin.*",
    "plugin.*.budget",
];

/// Where a list is instead of a table, and what is wrong with it. The message names the key.
pub(super) fn find_list(text: &str) -> Option<(Range<usize>, String)> {
    // The parser tells what is wrong with a text that is not TOML.
    let table = DeTable::parse(text).ok()?;
    TABLES.iter().find_map(|path| {
        let parts: Vec<&str> = path.split('.').collect();
        let span = find_in_table(table.get_ref(), &parts)?;
        let key = path.replace(".*", if path.starts_with("tier") { ".NAME" } else { "" });
        let shape = expected_shape(&key).unwrap_or("a table");
        Some((span, format!("{key}: invalid type: list, expected {shape}")))
    })
}

fn find_in_table(table: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (name, rest) = path.split_first()?;
    let find = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        match *name == "*" || key == name {
            true => find_in_value(value, rest),
            false => None,
        }
    };
    table.iter().find_map(find)
}

fn find_in_value(value: &toml::Spanned<DeValue<'_>>, rest: &[&str]) -> Option<Range<usize>> {
    match (value.get_ref(), rest) {
        // Tables in a list are an error anyway, which the parser explains: `[[server]]` for `[server]`.
        (DeValue::Array(list), []) => {
            let is_list_of_tables = !list.is_empty() && list.iter().all(|item| item.get_ref().is_table());
            (!is_list_of_tables).then(|| value.span())
        }
        (DeValue::Array(list), ["*", rest @ ..]) => list.iter().find_map(|item| find_in_value(item, rest)),
        (DeValue::Table(table), rest) => find_in_table(table, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_the_place_of_any_table_is_found() {
        for path in TABLES {
            let list = match path {
                "server.tls" => "[\"cert.pem\", \"key.pem\"]",
                _ => "[]",
            };
            let text = match path.split_once(".*") {
                None => format!("{path} = {list}"),
                Some(("tier", _)) => format!("tier.pro = {list}"),
                Some((root, "")) => format!("{root} = [{list}]"),
                Some((root, rest)) => format!("[[{root}]]\n{} = {list}", &rest[1..]),
            };
            let (span, message) = find_list(&text).unwrap_or_else(|| panic!("{text} was accepted"));
            assert_eq!(&text[span], list);
            assert!(message.contains("invalid type: list, expected a table such as {"), "{message}");
        }
        assert_eq!(
            find_list("[[key]]\nscopes = [\"publish\"]\n[tier.a]\nrooms = 1\n[server]\norigins = []"),
            None
        );
    }
}
