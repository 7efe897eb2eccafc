//! Values by room: of all entries whose patterns match a room, the first one counts. Does not know what the
//! values mean.

use crate::grant::GrantPattern;
use std::collections::HashMap;
use switchyard_protocol::room::MAX_NAME_BYTES;

/// Values by room. Finding one takes a look at the entries that begin like the name of the room, so thousands
/// of names of rooms, or of groups such as `dydx:*`, cost no more than a few.
///
/// ```
/// use switchyard_store::RoomTable;
///
/// let pattern = |text: &str| text.to_owned().try_into().unwrap();
/// let table = RoomTable::new(0, vec![(pattern("dydx:*"), 1), (pattern("**"), 2)]);
/// assert_eq!((*table.get("dydx:eth-usd"), *table.get("trades"), *table.get("@acme")), (1, 2, 0));
/// ```
#[derive(Clone, Debug)]
pub struct RoomTable<T> {
    default: T,
    entries: Vec<(GrantPattern, T)>,
    /// The entries for a single room, by its name. Those of ordinary rooms are in lower case.
    names: HashMap<Box<str>, usize>,
    /// The entries whose patterns have no star in their first part, by this part in lower case.
    first_parts: HashMap<Box<str>, Vec<usize>>,
    /// All other entries for ordinary rooms.
    others: Vec<usize>,
    all_inboxes: Option<usize>,
}

impl<T> RoomTable<T> {
    /// A table with these entries, and a value for rooms that none of them matches.
    pub fn new(default: T, entries: Vec<(GrantPattern, T)>) -> Self {
        let (mut names, mut first_parts) =
            (HashMap::<Box<str>, usize>::new(), HashMap::<Box<str>, Vec<usize>>::new());
        let (mut others, mut all_inboxes) = (vec![], None);
        for (n, (pattern, _)) in entries.iter().enumerate() {
            match pattern {
                GrantPattern::Inboxes => drop(all_inboxes.get_or_insert(n)),
                GrantPattern::Inbox(principal) => {
                    names.entry(format!("@{principal}").into()).or_insert(n);
                }
                GrantPattern::Rooms(pattern) => {
                    let text = pattern.to_string().to_ascii_lowercase();
                    match first_part(&text) {
                        _ if !text.contains('*') => drop(names.entry(text.into()).or_insert(n)),
                        part if part.contains('*') => others.push(n),
                        part => first_parts.entry(part.into()).or_default().push(n),
                    }
                }
            }
        }
        Self { default, entries, names, first_parts, others, all_inboxes }
    }

    /// The value for a room, which must have a valid name.
    pub fn get(&self, room: &str) -> &T {
        self.find(room).map_or(&self.default, |entry| &entry.1)
    }

    /// The entry that counts for a room, which must have a valid name.
    pub fn find(&self, room: &str) -> Option<&(GrantPattern, T)> {
        if self.entries.is_empty() {
            return None;
        }
        let found = match room.as_bytes().first()? {
            // Not even `**` matches it.
            b'*' => None,
            b'@' => self.names.get(room).copied().into_iter().chain(self.all_inboxes).min(),
            _ => self.find_ordinary(room),
        };
        found.map(|n| &self.entries[n])
    }

    fn find_ordinary(&self, room: &str) -> Option<usize> {
        // Names match in either case. This allocates nothing, because messages wait for it.
        let mut lower = [0; MAX_NAME_BYTES];
        let lower = lower.get_mut(..room.len())?;
        lower.copy_from_slice(room.as_bytes());
        lower.make_ascii_lowercase();
        let lower = std::str::from_utf8(lower).ok()?;
        let matches = |n: &&usize| match &self.entries[**n].0 {
            GrantPattern::Rooms(pattern) => pattern.matches(lower),
            GrantPattern::Inboxes | GrantPattern::Inbox(_) => false,
        };
        let group = self.first_parts.get(first_part(lower)).map_or(&[][..], Vec::as_slice);
        let first_of = |entries: &[usize]| entries.iter().find(matches).copied();
        let found = [self.names.get(lower).copied(), first_of(group), first_of(&self.others)];
        found.into_iter().flatten().min()
    }

    /// The same table with other values.
    pub fn map<U>(&self, mut value: impl FnMut(&T) -> U) -> RoomTable<U> {
        RoomTable {
            default: value(&self.default),
            entries: self.entries.iter().map(|(pattern, of)| (pattern.clone(), value(of))).collect(),
            names: self.names.clone(),
            first_parts: self.first_parts.clone(),
            others: self.others.clone(),
            all_inboxes: self.all_inboxes,
        }
    }
}

fn first_part(name: &str) -> &str {
    name.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_protocol::room::RoomName;

    fn table(patterns: &[&str]) -> RoomTable<usize> {
        let entry = |(n, text): (usize, &&str)| (GrantPattern::try_from((*text).to_owned()).unwrap(), n);
        RoomTable::new(usize::MAX, patterns.iter().enumerate().map(entry).collect())
    }

    #[test]
    fn the_first_entry_that_matches_counts() {
        let table = table(&[
            "dydx:eth-*",
            "DYDX:btc",
            "a*:x",
            "dydx:*",
            "@zed",
            "@*",
            "@acme",
            "*",
            "**",
            "dydx:sol",
        ]);
        for (room, expected) in [
            ("dydx:eth-usd", 0),
            ("dydx:btc", 1),
            ("Dydx:BTC", 1),
            ("abc:x", 2),
            ("dydx:sol", 3),
            ("@zed", 4),
            ("@Zed", 5),
            ("@acme", 5),
            ("trades", 7),
            ("dydx:a:b", 8),
            ("abc:y", 8),
            ("*", usize::MAX),
        ] {
            assert_eq!(*table.get(room), expected, "{room}");
        }
    }

    /// The index must not change which entry counts.
    #[test]
    fn the_index_finds_what_trying_all_entries_in_order_finds() {
        let patterns = ["a:b", "A:*", "a*", "*:b", "a:b:*", "b", "a:**", "@a", "@*", "**", "*:*:c", "b:*"];
        let rooms =
            ["a", "ab", "a:b", "A:B", "a:c", "b:b", "a:b:c", "x:y:c", "b", "B", "@a", "@A", "@b", "*"];
        for start in 0..patterns.len() {
            let mut order = patterns;
            order.rotate_left(start);
            let table = table(&order);
            for room in rooms {
                let name = RoomName::parse(room).unwrap();
                let matches =
                    |text: &&str| GrantPattern::try_from((*text).to_owned()).unwrap().matches(&name);
                let expected = order.iter().position(matches).unwrap_or(usize::MAX);
                assert_eq!(*table.get(room), expected, "{room} in {order:?}");
            }
        }
    }

    #[test]
    fn a_table_with_other_values_has_the_same_entries() {
        let table = table(&["a:*", "@*"]).map(|n| n.wrapping_add(1));
        assert_eq!((*table.get("a:b"), *table.get("@b"), *table.get("b")), (1, 2, 0));
        assert_eq!(table.find("a:b").unwrap().0.to_string(), "a:*");
    }
}
