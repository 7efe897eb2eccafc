//! Where in the text of a configuration a value is: its line, and the name of its key. Looks at lines,
//! brackets and quotation marks only, and does not parse TOML, which may be invalid.

use std::ops::Range;

/// Where an error is.
pub(super) enum Location {
    /// A range of bytes of the text.
    Span(Range<usize>),
    /// A key of a section: `Key("server", "listen")`.
    Key(&'static str, &'static str),
    /// A key of one of the tables of a list, which are counted from 0: `Entry("plugin", 1, "name")`.
    Entry(&'static str, usize, &'static str),
}

impl Location {
    /// The range of bytes in `text`.
    pub(super) fn find(&self, text: &str) -> Range<usize> {
        match self {
            Location::Span(span) => span.clone(),
            Location::Key(section, key) => find_key(text, section, key),
            Location::Entry(list, n, key) => {
                let header = format!("[[{list}]]");
                let mut headers = lines(text).filter(|(_, line)| line.trim() == header);
                let Some((start, _)) = headers.nth(*n) else { return 0..0 };
                let has_key = |(_, line): &(usize, &str)| {
                    line.split('=').next().is_some_and(|name| name.trim() == *key)
                };
                let found = lines(&text[start..])
                    .skip(1)
                    .take_while(|(_, line)| !line.trim().starts_with('['))
                    .find(has_key);
                let at = start + found.map_or(0, |(at, _)| at);
                at..at
            }
        }
    }
}

/// The lines of a text, each with the offset of its first byte.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut end = 0;
    text.split_inclusive('\n').map(move |line| {
        end += line.len();
        (end - line.len(), line)
    })
}

/// The range of bytes of the line with this key; otherwise of the header of its section, otherwise the start
/// of the text.
pub fn find_key(text: &str, section: &str, key: &str) -> Range<usize> {
    let (mut current_section, mut found) = (String::new(), 0..0);
    for (start, line) in lines(text) {
        let (end, name) = (start + line.len(), line.split('=').next().unwrap_or_default().trim());
        if let Some(header) = name.strip_prefix('[') {
            current_section = header.trim_end_matches(']').trim().to_owned();
            if current_section == section {
                found = start..end;
            }
        } else if (current_section == section && name == key)
            || (current_section.is_empty() && name == format!("{section}.{key}"))
        {
            return start..end;
        }
    }
    found
}

/// The number of the line, from 1, that contains the byte at this offset.
pub fn line_number(text: &str, offset: usize) -> usize {
    text[..text.floor_char_boundary(offset)].matches('\n').count() + 1
}

/// The header of the section that contains this offset, with its brackets. The offset may be in the header
/// itself.
pub(super) fn header_at(text: &str, offset: usize) -> Option<&str> {
    section_at(text, offset).map(|(_, header)| header.trim())
}

/// The line of the header of the section that contains this offset, and the offset of that line.
fn section_at(text: &str, offset: usize) -> Option<(usize, &str)> {
    lines(text).take_while(|(start, _)| *start <= offset).filter(|(_, line)| is_header(line)).last()
}

fn is_header(line: &str) -> bool {
    line.trim().starts_with('[') && line.trim().ends_with(']')
}

/// The full name of the key whose value is at this offset, such as `session.heartbeat.interval`, as far as
/// its section and the text after the section's header tell. In a header, the name of the section.
pub(super) fn key_at(text: &str, offset: usize) -> String {
    let offset = text.floor_char_boundary(offset);
    let (start, header) = section_at(text, offset).unwrap_or_default();
    let section = header.trim().trim_matches(['[', ']', ' ']);
    if offset < start + header.len() {
        return section.to_owned();
    }
    // The key of the statement, and the keys of the inline tables that are open at the offset.
    let (mut path, mut name) = (vec![], String::new());
    // The brackets that are open, each with the length of the path before it.
    let mut open = vec![];
    let (mut quote, mut is_comment) = (None, false);
    let mut chars = text[start + header.len()..offset].chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, '\n') => {
                (quote, is_comment) = (None, false);
                name.clear();
                if open.is_empty() {
                    path.clear();
                }
            }
            (Some('"'), '\\') => drop(chars.next()),
            (Some(mark), c) if c == mark => quote = None,
            (Some(_), _) => {}
            (None, _) if is_comment => {}
            (None, '#') => is_comment = true,
            (None, '"' | '\'') => quote = Some(c),
            (None, '=') => path.push(std::mem::take(&mut name)),
            (None, '{' | '[') => {
                open.push((c, path.len()));
                name.clear();
            }
            (None, '}' | ']') => {
                path.truncate(open.pop().map_or(0, |(_, length)| length));
                name.clear();
            }
            (None, ',') => {
                if let Some(('{', length)) = open.last() {
                    path.truncate(*length);
                }
                name.clear();
            }
            (None, c) if c.is_whitespace() => {}
            (None, c) => name.push(c),
        }
    }
    path.insert(0, section.to_owned());
    path.retain(|part| !part.is_empty());
    path.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_key_has_its_section_and_its_inline_tables() {
        for (text, expected) in [
            ("[session]\nttl = \"|2 moons\"", "session.ttl"),
            ("session.ttl = |7", "session.ttl"),
            ("[session]\nheartbeat = { interval = |\"x\" }", "session.heartbeat.interval"),
            ("[session]\nheartbeat = { interval = \"=1s\", timeout = |\"x\" }", "session.heartbeat.timeout"),
            ("[[plugin]]\nname = \"p\"\nbudget = { call = |7 }", "plugin.budget.call"),
            ("[server]\n|lsten = 1", "server"),
            ("[tier.pro]\nrooms = |\"x\"", "tier.pro.rooms"),
            ("x = |[", "x"),
            ("|x", ""),
            ("[key]\n|digest = 1", "key"),
            ("[[|key]]\ndigest = 1", "key"),
            ("[[key]]\nscopes = [\"a\", |1]", "key.scopes"),
            ("[[key]]\nscopes = [\n  \"a\", # a, b = [c]\n  |1,\n]", "key.scopes"),
            ("[limits]\ntrusted = [\n  \"a\",\n]\nunauthenticated = |\"x\"", "limits.unauthenticated"),
            ("a = { b = {}, c = { d = 1 }, e = |1 }", "a.e"),
            ("[server]\npath = \"a\\\"=\"\nframe = |1", "server.frame"),
        ] {
            let at = text.find('|').unwrap();
            assert_eq!(key_at(&text.replace('|', ""), at), expected, "{text}");
        }
    }

    #[test]
    fn a_key_in_a_list_of_tables_is_found() {
        let text = "[[key]]\ndigest = 1\n[[key]]\nprincipal = 2\ndigest = 3\n";
        assert_eq!(line_number(text, Location::Entry("key", 1, "digest").find(text).start), 5);
        assert_eq!(line_number(text, Location::Entry("key", 0, "tier").find(text).start), 1);
    }
}
