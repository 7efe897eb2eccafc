//! Looks at each command as Redis carries it out: whether it may have been answered as it was.

use super::{engine::Engine, server::Server, step::ROOMS, wire::Ask, world::TTL};
use crate::redis::{
    answer::{self, list, number},
    context::lease_time::LEASE,
};
use fred::types::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// A session as the commands so far left it.
#[derive(Default)]
pub(super) struct Seen {
    /// The connection that has it.
    pub holder: Option<String>,
    /// When it was taken last.
    taken: Option<Instant>,
    /// Connections from which it was taken.
    pub lost: BTreeSet<String>,
    /// It was ended, or its time was.
    over: bool,
    /// Somebody has made it, and Redis has lost nothing since.
    is_known: bool,
    /// When it was let go, and until when it can be resumed at least.
    until: Option<Instant>,
}

/// What each session has acknowledged in a room, and in which epoch.
type Acks = (Option<String>, BTreeMap<String, f64>);

#[derive(Default)]
pub(super) struct Watch {
    /// By key.
    sessions: BTreeMap<String, Seen>,
    acks: BTreeMap<&'static str, Acks>,
    /// When Redis' clock was set last.
    pub set: Option<Instant>,
    /// When each node renewed its lease last.
    leases: BTreeMap<String, Instant>,
    /// Cluster time when it began.
    began: Option<(u64, Instant)>,
    /// Redis lost something.
    pub lost_data: bool,
}

/// What is known of a connection beside the store.
pub(super) struct Known {
    pub asked: Instant,
    /// Its client is on it.
    pub lives: bool,
}

/// Nodes may know cluster time by an answer that took so long, or longer.
const SLOW: Duration = Duration::from_secs(4);
/// Until the nodes have heard of a clock that was set.
const TICKS: Duration = Duration::from_secs(3);

impl Watch {
    pub(super) fn seen(&self, key: &str) -> Option<&Seen> {
        self.sessions.get(key)
    }

    /// Redis lost something of what was written.
    pub(super) fn lost_data(&mut self) {
        self.lost_data = true;
        for seen in self.sessions.values_mut() {
            *seen = Seen::default();
        }
        self.acks.clear();
    }

    /// What is answered to a command. The error: it may not have been.
    pub(super) fn carry_out(
        &mut self,
        engine: &Engine,
        ask: &Ask,
        sent: Instant,
        known: impl Fn(&str) -> Option<Known>,
    ) -> Result<Value, (Value, String)> {
        let (script, keys, arguments) = match ask {
            Ask::Script(script, keys, arguments) => (script, keys, arguments),
            Ask::Command(name, arguments) => {
                let words: Vec<_> = [*name].into_iter().chain(arguments.iter().map(String::as_str)).collect();
                return Ok(super::engine::answered(engine.server.borrow_mut().call(&words)));
            }
        };
        let answer = engine.run(script, keys, arguments);
        let parts = answer::texts(answer.clone()).unwrap_or_default();
        let part = |n: usize| parts.get(n).map_or("", |part| &**part);
        let argument = |n: usize| arguments.get(n).map_or("", String::as_str);
        let judged = match script.name {
            "claim" | "take" | "amend" | "put" | "letgo" | "ending"
                if part(0) == "ok" || part(0) == "ended" =>
            {
                let seen = self.sessions.entry(keys[0].clone()).or_default();
                let may_be_late = self.set.map(|set| set + TICKS);
                let known = known(argument(0));
                if script.name == "letgo" {
                    let by_its_node = argument(1).is_empty();
                    let lives = known.as_ref().is_some_and(|known| known.lives);
                    if by_its_node && lives {
                        return Err((answer, "let go of a session whose connection lives".to_owned()));
                    }
                }
                let is_over = script.name == "ending" || (script.name == "letgo" && part(4) == "0");
                if script.name == "letgo" {
                    let ttl = if argument(3) == "0" { Duration::ZERO } else { TTL };
                    seen.until = seen.until.or(Some(sent + ttl));
                } else if script.name != "ending" {
                    (seen.is_known, seen.until) = (true, None);
                }
                seen.judge(script.name, argument(0), known, is_over, may_be_late)
            }
            "tick" => self.look_at_tick(argument(0), &answer),
            "enrol" | "ack" | "renew" => self.compare_acks(&engine.server.borrow()),
            _ => Ok(()),
        };
        let is_gone = || {
            let seen = self.sessions.get(&keys[0])?;
            let now = Instant::now() + SLOW;
            let can_be_resumed = seen.is_known && seen.until.is_none_or(|until| until > now);
            can_be_resumed.then(|| "a session that can be resumed is gone".to_owned())
        };
        let judged = match (script.name, part(0)) {
            ("take", "none") => is_gone().map_or(Ok(()), Err),
            _ => judged,
        };
        match judged {
            Ok(()) => Ok(answer),
            Err(wrong) => {
                Err((answer, format!("{} {keys:?} {arguments:?} -> {parts:?}: {wrong}", script.name)))
            }
        }
    }

    /// A lease is lost only by whoever did not renew it, and cluster time does not run ahead of time.
    fn look_at_tick(&mut self, node: &str, answer: &Value) -> Result<(), String> {
        let parts = list(answer.clone()).expect("an answer of many parts");
        let (now, time) = (Instant::now(), number(&parts[1]).expect("milliseconds"));
        let is_lost = parts[2].as_str().is_some_and(|held| held.is_empty());
        let (first, began) = *self.began.get_or_insert((time, now));
        let renewed = match is_lost {
            true => self.leases.get(node).copied(),
            false => self.leases.insert(node.to_owned(), now),
        };
        if self.lost_data {
            return Ok(());
        }
        if time < first || Duration::from_millis(time - first) > now - began {
            return Err(format!("cluster time began {:?} ago with {first} and is {time}", now - began));
        }
        match renewed.filter(|renewed| is_lost && renewed.elapsed() < LEASE) {
            Some(renewed) => Err(format!("a node renewed its lease {:?} ago and lost it", renewed.elapsed())),
            None => Ok(()),
        }
    }

    /// Acknowledgements are those of members, and do not go back within an epoch.
    fn compare_acks(&mut self, server: &Server) -> Result<(), String> {
        for room in ROOMS {
            let key = |rest| format!("m:{{{room}}}:{rest}");
            let epoch = server.hash(&key("room")).and_then(|hash| hash.get("epoch")).cloned();
            let acks = server.sorted(&key("acks")).cloned().unwrap_or_default();
            let members = server.sorted(&key("members")).cloned().unwrap_or_default();
            let members: BTreeSet<_> =
                members.keys().filter_map(|entry| Some(entry.split_once(' ')?.1)).collect();
            if members != acks.keys().map(String::as_str).collect() {
                return Err(format!("members of {room}: {members:?}, and acknowledgements: {acks:?}"));
            }
            let now = (epoch, acks);
            if let Some(before) = self.acks.insert(room, now.clone()).filter(|before| before.0 == now.0) {
                for (id, offset) in &before.1 {
                    if now.1.get(id).is_some_and(|now| now < offset) {
                        return Err(format!(
                            "an acknowledgement in {room} went back from {offset}: {:?}",
                            now.1
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Seen {
    /// Whether a command of a connection, or in its name, may have been answered well.
    fn judge(
        &mut self,
        name: &str,
        connection: &str,
        known: Option<Known>,
        is_over: bool,
        set_back: Option<Instant>,
    ) -> Result<(), String> {
        let had_lost = self.lost.contains(connection);
        match name {
            "claim" => self.holder = Some(connection.to_owned()),
            "take" => {
                let asked = known.expect("the model made it").asked;
                if self.over {
                    return Err("a session that was over was taken".to_owned());
                }
                let is_other = self.holder.as_deref() != Some(connection);
                let is_in_doubt = set_back.is_some_and(|set_back| set_back > asked);
                if is_other && !is_in_doubt && self.taken.is_some_and(|taken| taken > asked) {
                    return Err("it was taken from one that had taken it after this one asked".to_owned());
                }
                self.lost.extend(self.holder.replace(connection.to_owned()).filter(|_| is_other));
                self.taken = Some(Instant::now());
            }
            "amend" | "put" if had_lost => return Err("one that had lost the session wrote it".to_owned()),
            "put" => (self.holder, self.over) = (Some(connection.to_owned()), false),
            "letgo" if had_lost => return Err("one that had lost the session let it go".to_owned()),
            _ => {}
        }
        if is_over {
            self.over = true;
        }
        Ok(())
    }
}
