//! Checks each command as Redis executes it: whether Redis may answer it as it does.

use super::{
    fake_redis::FakeRedis, network::RedisCall, script_engine::ScriptEngine, step::ROOMS, world::SESSION_TTL,
};
use crate::redis::{
    context::lease_expiry::LEASE_DURATION,
    replies::{self, list, number},
};
use fred::types::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// What the commands so far have done with a session.
#[derive(Default)]
pub(super) struct SessionTrace {
    /// The connection that holds it.
    pub holder: Option<String>,
    /// When it was last taken.
    taken: Option<Instant>,
    /// The connections from which it was taken.
    pub lost: BTreeSet<String>,
    /// It was ended, or has expired.
    over: bool,
    /// It was created, and Redis has lost nothing since.
    is_known: bool,
    /// If it was released: until when it can be resumed at least.
    until: Option<Instant>,
}

/// The epoch of a room, and what each session has acknowledged in it.
type RoomAcks = (Option<String>, BTreeMap<String, f64>);

#[derive(Default)]
pub(super) struct Checker {
    /// By key in Redis.
    sessions: BTreeMap<String, SessionTrace>,
    acks: BTreeMap<&'static str, RoomAcks>,
    /// When the clock of Redis was last set.
    pub set: Option<Instant>,
    /// When each node last renewed its lease.
    leases: BTreeMap<String, Instant>,
    /// Cluster time at the start, and when that was.
    began: Option<(u64, Instant)>,
    /// Whether Redis has lost data.
    pub lost_data: bool,
}

/// What the model knows about a connection without the store.
pub(super) struct ConnectionFacts {
    pub requested_at: Instant,
    /// Whether its client uses it.
    pub lives: bool,
}

/// How old the answer can be from which a node knows the cluster time.
const MAX_CLUSTER_TIME_DELAY: Duration = Duration::from_secs(4);
/// How long it takes until all nodes have noticed that the clock was set.
const CLOCK_STEP_NOTICE_TIME: Duration = Duration::from_secs(3);

impl Checker {
    pub(super) fn seen(&self, key: &str) -> Option<&SessionTrace> {
        self.sessions.get(key)
    }

    /// Redis has lost data: forget what sessions were like.
    pub(super) fn lost_data(&mut self) {
        self.lost_data = true;
        for seen in self.sessions.values_mut() {
            *seen = SessionTrace::default();
        }
        self.acks.clear();
    }

    /// Executes a command and returns the answer. The error also says why Redis must not answer so.
    pub(super) fn execute(
        &mut self,
        engine: &ScriptEngine,
        call: &RedisCall,
        sent: Instant,
        known: impl Fn(&str) -> Option<ConnectionFacts>,
    ) -> Result<Value, (Value, String)> {
        let (script, keys, arguments) = match call {
            RedisCall::Script(script, keys, arguments) => (script, keys, arguments),
            RedisCall::Command(name, arguments) => {
                let words: Vec<_> = [*name].into_iter().chain(arguments.iter().map(String::as_str)).collect();
                return Ok(super::script_engine::reply_value(engine.server.borrow_mut().call(&words)));
            }
        };
        let answer = engine.run(script, keys, arguments);
        let parts = replies::texts(answer.clone()).unwrap_or_default();
        let part = |n: usize| parts.get(n).map_or("", |part| &**part);
        let argument = |n: usize| arguments.get(n).map_or("", String::as_str);
        let checked = match script.name {
            "create_session" | "resume_session" | "update_session" | "replace_session"
            | "release_session" | "expire_session"
                if part(0) == "ok" || part(0) == "ended" =>
            {
                let seen = self.sessions.entry(keys[0].clone()).or_default();
                let may_be_late = self.set.map(|set| set + CLOCK_STEP_NOTICE_TIME);
                let known = known(argument(0));
                if script.name == "release_session" {
                    let by_its_node = argument(1).is_empty();
                    let lives = known.as_ref().is_some_and(|known| known.lives);
                    if by_its_node && lives {
                        return Err((answer, "a session was released whose connection is alive".to_owned()));
                    }
                }
                let is_over =
                    script.name == "expire_session" || (script.name == "release_session" && part(4) == "0");
                if script.name == "release_session" {
                    let ttl = if argument(3) == "0" { Duration::ZERO } else { SESSION_TTL };
                    seen.until = seen.until.or(Some(sent + ttl));
                } else if script.name != "expire_session" {
                    (seen.is_known, seen.until) = (true, None);
                }
                seen.check(script.name, argument(0), known, is_over, may_be_late)
            }
            "renew_lease" => self.check_lease_renewal(argument(0), &answer),
            "write_members" | "acknowledge" | "begin_epoch" => self.compare_acks(&engine.server.borrow()),
            _ => Ok(()),
        };
        let is_gone = || {
            let seen = self.sessions.get(&keys[0])?;
            let now = Instant::now() + MAX_CLUSTER_TIME_DELAY;
            let can_be_resumed = seen.is_known && seen.until.is_none_or(|until| until > now);
            can_be_resumed.then(|| "a session is gone that can still be resumed".to_owned())
        };
        let checked = match (script.name, part(0)) {
            ("resume_session", "none") => is_gone().map_or(Ok(()), Err),
            _ => checked,
        };
        match checked {
            Ok(()) => Ok(answer),
            Err(wrong) => {
                Err((answer, format!("{} {keys:?} {arguments:?} -> {parts:?}: {wrong}", script.name)))
            }
        }
    }

    /// Checks that a node loses its lease only if it did not renew it, and that cluster time does not run
    /// fast.
    fn check_lease_renewal(&mut self, node: &str, answer: &Value) -> Result<(), String> {
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
            return Err(format!("cluster time started {:?} ago at {first} and is {time} now", now - began));
        }
        match renewed.filter(|renewed| is_lost && renewed.elapsed() < LEASE_DURATION) {
            Some(renewed) => {
                Err(format!("a node lost a lease that it had renewed {:?} ago", renewed.elapsed()))
            }
            None => Ok(()),
        }
    }

    /// Checks that only members have acknowledgements, and that these do not go back within an epoch.
    fn compare_acks(&mut self, server: &FakeRedis) -> Result<(), String> {
        for room in ROOMS {
            let key = |rest| format!("m:{{{room}}}:{rest}");
            let epoch = server.hash(&key("room")).and_then(|hash| hash.get("epoch")).cloned();
            let acks = server.sorted(&key("acks")).cloned().unwrap_or_default();
            let members = server.sorted(&key("members")).cloned().unwrap_or_default();
            let members: BTreeSet<_> =
                members.keys().filter_map(|entry| Some(entry.split_once(' ')?.1)).collect();
            if members != acks.keys().map(String::as_str).collect() {
                return Err(format!(
                    "{room} has the members {members:?}, but these acknowledgements: {acks:?}"
                ));
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

impl SessionTrace {
    /// Checks a command of a connection, or on its behalf, that succeeded.
    fn check(
        &mut self,
        name: &str,
        connection: &str,
        known: Option<ConnectionFacts>,
        is_over: bool,
        clock_set_at: Option<Instant>,
    ) -> Result<(), String> {
        let had_lost = self.lost.contains(connection);
        match name {
            "create_session" => self.holder = Some(connection.to_owned()),
            "resume_session" => {
                let requested_at = known.expect("the model made it").requested_at;
                if self.over {
                    return Err("a session was taken that had ended".to_owned());
                }
                let is_other = self.holder.as_deref() != Some(connection);
                let is_in_doubt = clock_set_at.is_some_and(|clock_set_at| clock_set_at > requested_at);
                if is_other && !is_in_doubt && self.taken.is_some_and(|taken| taken > requested_at) {
                    return Err("it was taken from a connection that had taken it after this one had asked"
                        .to_owned());
                }
                self.lost.extend(self.holder.replace(connection.to_owned()).filter(|_| is_other));
                self.taken = Some(Instant::now());
            }
            "update_session" | "replace_session" if had_lost => {
                return Err("a connection wrote a session that it had lost".to_owned());
            }
            "replace_session" => (self.holder, self.over) = (Some(connection.to_owned()), false),
            "release_session" if had_lost => {
                return Err("a connection released a session that it had lost".to_owned());
            }
            _ => {}
        }
        if is_over {
            self.over = true;
        }
        Ok(())
    }
}
