//! Where in a configuration something stands: of what is wrong, the line and the key.

use std::ops::Range;

/// Where something that is wrong stands.
pub(super) enum Place {
    Span(Range<usize>),
    /// A key of a section.
    Key(&'static str, &'static str),
    /// A key of one of the tables of a list, counted from 0.
    Entry(&'static str, usize, &'static str),
}

impl Place {
    pub(super) fn find(&self, text: &str) -> Range<usize> {
        match self {
            Place::Span(span) => span.clone(),
            Place::Key(section, key) => find(text, section, key),
            Place::Entry(list, n, key) => {
                let header = format!("[[{list}]]");
                let mut headers = lines(text).filter(|(_, line)| line.trim() == header);
                let Some((start, _)) = headers.nth(*n) else { return 0..0 };
                let is_it = |(_, line): &(usize, &str)| {
                    line.split('=').next().is_some_and(|name| name.trim() == *key)
                };
                let found = lines(&text[start..])
                    .skip(1)
                    .take_while(|(_, line)| !line.trim().starts_with('['))
                    .find(is_it);
                let at = start + found.map_or(0, |(at, _)| at);
                at..at
            }
        }
    }
}

/// Each line with where it starts.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut end = 0;
    text.split_inclusive('\n').map(move |line| {
        end += line.len();
        (end - line.len(), line)
    })
}

/// Where a key is written, else its section, else the start.
pub fn find(text: &str, section: &str, key: &str) -> Range<usize> {
    let (mut here, mut found) = (String::new(), 0..0);
    for (start, line) in lines(text) {
        let (end, name) = (start + line.len(), line.split('=').next().unwrap_or_default().trim());
        if let Some(header) = name.strip_prefix('[') {
            here = header.trim_end_matches(']').trim().to_owned();
            if here == section {
                found = start..end;
            }
        } else if (here == section && name == key) || (here.is_empty() && name == format!("{section}.{key}"))
        {
            return start..end;
        }
    }
    found
}

pub fn line(text: &str, at: usize) -> usize {
    text[..text.floor_char_boundary(at)].matches('\n').count() + 1
}

/// What the value that stands there is called, such as `session.heartbeat.interval`; as far as its section and its line say.
pub(super) fn key_at(text: &str, at: usize) -> String {
    let at = text.floor_char_boundary(at);
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let header =
        text[..start].lines().map(str::trim).rfind(|line| line.starts_with('[') && line.ends_with(']'));
    let header = header.map_or("", |line| line.trim_matches(['[', ']', ' ']));
    // Inline tables that are open there.
    let (mut path, mut name, mut quote) = (vec![header.to_owned()], String::new(), None);
    for c in text[start..at].chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '=') => path.push(std::mem::take(&mut name)),
            (None, '{' | '[' | ']') => name.clear(),
            (None, ',') => drop((path.pop(), name.clear())),
            (None, '}') => drop((path.pop(), name.clear())),
            (None, c) if c.is_whitespace() => {}
            (None, c) => name.push(c),
        }
    }
    path.retain(|part| !part.is_empty());
    path.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_called_by_its_section_and_its_line() {
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
        ] {
            let at = text.find('|').unwrap();
            assert_eq!(key_at(&text.replace('|', ""), at), expected, "{text}");
        }
    }

    #[test]
    fn an_entry_of_a_list_is_found() {
        let text = "[[key]]\ndigest = 1\n[[key]]\nprincipal = 2\ndigest = 3\n";
        assert_eq!(line(text, Place::Entry("key", 1, "digest").find(text).start), 5);
        assert_eq!(line(text, Place::Entry("key", 0, "tier").find(text).start), 1);
    }
}
