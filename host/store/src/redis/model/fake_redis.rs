//! The model's Redis: keys in memory, a clock that the model sets, and the commands that the store uses. Any
//! other command panics.

use crate::redis::connecting::SCHEMA;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::time::Instant;

/// The time at which a model starts, in Unix milliseconds.
const START_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
pub(super) enum StoredValue {
    Hash(BTreeMap<String, String>),
    Sorted(BTreeMap<String, f64>),
    Set(BTreeSet<String>),
    List(VecDeque<String>),
}

#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Nil,
    Integer(i64),
    Text(String),
    List(Vec<Reply>),
}

#[derive(Clone)]
struct FakeEntry {
    kept: StoredValue,
    /// In milliseconds, by the clock of the model.
    expires: Option<u64>,
}

#[derive(Clone)]
pub(super) struct FakeRedis {
    entries: BTreeMap<String, FakeEntry>,
    began: Instant,
    /// How far the clock was set forward or back, in milliseconds.
    set: i64,
}

type Texts<'a> = &'a [&'a str];

/// The value of a key, which must be of this type. A key that does not exist is created, and removed if it
/// stays empty.
macro_rules! value_of {
    ($server:expr, $key:expr, $kind:ident) => {{
        let entry = $server.entries.entry($key.to_owned());
        let new = || FakeEntry { kept: StoredValue::$kind(Default::default()), expires: None };
        match &mut entry.or_insert_with(new).kept {
            StoredValue::$kind(kept) => kept,
            other => panic!("{} is {other:?}", $key),
        }
    }};
}

fn integer(number: usize) -> Reply {
    Reply::Integer(number as i64)
}

fn number(text: &str) -> f64 {
    match text {
        "-inf" => f64::NEG_INFINITY,
        "+inf" => f64::INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("invalid number '{text}'")),
    }
}

fn texts(found: impl IntoIterator<Item = String>) -> Reply {
    Reply::List(found.into_iter().map(Reply::Text).collect())
}

fn maybe(found: Option<String>) -> Reply {
    found.map_or(Reply::Nil, Reply::Text)
}

impl FakeRedis {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), began: Instant::now(), set: 0 }
    }

    pub(super) fn micros(&self) -> u64 {
        let since = self.began.elapsed().as_micros() as u64;
        (START_MS * 1000 + since).saturating_add_signed(self.set * 1000)
    }

    pub(super) fn millis(&self) -> u64 {
        self.micros() / 1000
    }

    /// Sets the clock, which is wrong by so many seconds from now on.
    pub(super) fn set_clock(&mut self, seconds: i16) {
        self.set = i64::from(seconds) * 1000;
    }

    pub(super) fn flush(&mut self) {
        self.entries.clear();
    }

    /// Goes back to a saved state. The clock continues.
    pub(super) fn restore(&mut self, saved: &FakeRedis) {
        self.entries = saved.entries.clone();
    }

    /// All keys that have not expired, with their values.
    pub(super) fn values(&mut self) -> impl Iterator<Item = (&str, &StoredValue)> {
        let now = self.millis();
        self.entries.retain(|_, entry| entry.expires.is_none_or(|expires| expires > now));
        self.entries.iter().map(|(key, entry)| (&**key, &entry.kept))
    }

    pub(super) fn cluster_time(&self) -> f64 {
        let time = self.hash("m:{/nodes}:clock").and_then(|clock| clock.get("time"));
        time.map_or(0.0, |time| number(time))
    }

    pub(super) fn hash(&self, key: &str) -> Option<&BTreeMap<String, String>> {
        match &self.entries.get(key)?.kept {
            StoredValue::Hash(hash) => Some(hash),
            other => panic!("{key} is {other:?}"),
        }
    }

    pub(super) fn sorted(&self, key: &str) -> Option<&BTreeMap<String, f64>> {
        match &self.entries.get(key)?.kept {
            StoredValue::Sorted(sorted) => Some(sorted),
            other => panic!("{key} is {other:?}"),
        }
    }

    pub(super) fn call(&mut self, command: Texts) -> Reply {
        let [name, rest @ ..] = command else { panic!("no command") };
        if *name == "TIME" {
            let micros = self.micros();
            return texts([(micros / 1_000_000).to_string(), (micros % 1_000_000).to_string()]);
        }
        let [key, rest @ ..] = rest else { panic!("{name} without a key") };
        let now = self.millis();
        if self.entries.get(*key).is_some_and(|entry| entry.expires.is_some_and(|expires| expires <= now)) {
            self.entries.remove(*key);
        }
        let reply = match *name {
            "DEL" => integer(
                [&[*key], rest].concat().iter().filter(|key| self.entries.remove(**key).is_some()).count(),
            ),
            "EXISTS" => integer(self.entries.contains_key(*key).into()),
            "PEXPIRE" => {
                let expires = now + rest[0].parse::<u64>().expect("milliseconds");
                if let Some(entry) = self.entries.get_mut(*key) {
                    entry.expires = Some(expires);
                }
                Reply::Integer(1)
            }
            "PTTL" => match self.entries.get(*key).map(|entry| entry.expires) {
                None => Reply::Integer(-2),
                Some(None) => Reply::Integer(-1),
                Some(Some(expires)) => Reply::Integer((expires - now) as i64),
            },
            name if name.starts_with('H') => self.on_hash(name, key, rest),
            name if name.starts_with('Z') => self.on_sorted(name, key, rest),
            name => self.on_other(name, key, rest),
        };
        let is_empty = self.entries.get(*key).is_some_and(|entry| match &entry.kept {
            StoredValue::Hash(hash) => hash.is_empty(),
            StoredValue::Sorted(sorted) => sorted.is_empty(),
            StoredValue::Set(set) => set.is_empty(),
            StoredValue::List(list) => list.is_empty(),
        });
        if is_empty {
            self.entries.remove(*key);
        }
        reply
    }

    fn on_hash(&mut self, name: &str, key: &str, rest: Texts) -> Reply {
        let hash = value_of!(self, key, Hash);
        match name {
            "HGET" => maybe(hash.get(rest[0]).cloned()),
            "HMGET" => Reply::List(rest.iter().map(|field| maybe(hash.get(*field).cloned())).collect()),
            "HGETALL" => texts(hash.iter().flat_map(|(field, value)| [field.clone(), value.clone()])),
            "HKEYS" => texts(hash.keys().cloned()),
            "HDEL" => integer(rest.iter().filter(|field| hash.remove(**field).is_some()).count()),
            "HSET" => {
                let new = |pair: Texts| hash.insert(pair[0].to_owned(), pair[1].to_owned()).is_none();
                integer(rest.chunks_exact(2).map(new).filter(|new| *new).count())
            }
            name => panic!("the model does not support {name}"),
        }
    }

    fn on_sorted(&mut self, name: &str, key: &str, rest: Texts) -> Reply {
        let sorted = value_of!(self, key, Sorted);
        match (name, rest) {
            ("ZCARD", []) => integer(sorted.len()),
            ("ZSCORE", [member]) => maybe(sorted.get(*member).map(f64::to_string)),
            ("ZREM", members) => {
                integer(members.iter().filter(|member| sorted.remove(**member).is_some()).count())
            }
            ("ZADD", rest) => {
                let flags = rest.iter().take_while(|word| ["XX", "NX", "GT"].contains(word)).count();
                let has = |flag| rest[..flags].contains(&flag);
                for pair in rest[flags..].chunks_exact(2) {
                    let (score, member) = (number(pair[0]), pair[1]);
                    match sorted.get_mut(member) {
                        Some(before) if !has("NX") && (!has("GT") || score > *before) => *before = score,
                        None if !has("XX") => drop(sorted.insert(member.to_owned(), score)),
                        _ => {}
                    }
                }
                Reply::Integer(0)
            }
            ("ZRANGEBYSCORE", ["-inf", most, limit @ ..]) => {
                let most = number(most);
                let mut found: Vec<_> = sorted.iter().filter(|(_, score)| **score <= most).collect();
                found.sort_by(|(_, one), (_, other)| one.total_cmp(other));
                match limit {
                    [] => {}
                    ["LIMIT", "0", limit] => found.truncate(limit.parse().expect("a limit")),
                    other => panic!("the model does not support {other:?}"),
                }
                texts(found.into_iter().map(|(member, _)| member.clone()))
            }
            ("ZUNIONSTORE", ["1", from, "WEIGHTS", "0"]) if *from == key => {
                sorted.values_mut().for_each(|score| *score = 0.0);
                self.entries.get_mut(key).expect("it is there").expires = None;
                Reply::Integer(0)
            }
            (name, rest) => panic!("the model does not support {name} with {rest:?}"),
        }
    }

    fn on_other(&mut self, name: &str, key: &str, rest: Texts) -> Reply {
        match (name, rest) {
            ("SADD", members) => {
                let set = value_of!(self, key, Set);
                integer(members.iter().filter(|member| set.insert((**member).to_owned())).count())
            }
            ("SREM", members) => {
                let set = value_of!(self, key, Set);
                integer(members.iter().filter(|member| set.remove(**member)).count())
            }
            // Redis returns small sets at once, too.
            ("SSCAN", ["0", "COUNT", _]) => Reply::List(vec![
                Reply::Text("0".to_owned()),
                texts(value_of!(self, key, Set).iter().cloned()),
            ]),
            ("RPUSH", [text]) => {
                value_of!(self, key, List).push_back((*text).to_owned());
                Reply::Integer(1)
            }
            ("LPOP", [_]) => match std::mem::take(value_of!(self, key, List)) {
                list if list.is_empty() => Reply::Nil,
                list => texts(list),
            },
            // Used for the schema only, and all nodes here have the same version.
            ("SET", [_, "NX"]) => Reply::Nil,
            ("GET", []) => Reply::Text(SCHEMA.to_owned()),
            // Logs are empty in the model.
            ("XRANGE", _) if !self.entries.contains_key(key) => Reply::List(vec![]),
            (name, rest) => panic!("the model does not support {name} with {rest:?}"),
        }
    }
}
