//! The invariants that must hold at every moment, and those that must hold once everything has settled.

use super::{
    client::{ModelConnection, RoomStates, State},
    fake_redis::StoredValue,
    step::ROOMS,
    world::{SESSION_TTL, World},
};
use crate::redis::{
    context::lease_expiry::LEASE_DURATION,
    session_id::SessionId,
    session_key::SessionKey,
    sessions::HeldSession,
    stored_rooms::{StoredMembership, StoredRooms},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use switchyard_protocol::room::RoomName;

/// How many milliseconds a node's cluster time may be ahead of that in Redis.
const MAX_AHEAD_MS: f64 = 2000.0;

type Memberships = BTreeMap<RoomName, StoredMembership>;

/// The record of a session as Redis has it.
struct StoredRecord {
    principal: String,
    id: String,
    fields: BTreeMap<String, String>,
    rooms: StoredRooms,
}

impl StoredRecord {
    fn read(key: &str, fields: &BTreeMap<String, String>) -> Option<Self> {
        let (principal, id) = key.strip_prefix("m:{@")?.split_once("}:session:")?;
        let pairs = fields.iter().filter_map(|(field, text)| Some((field.strip_prefix('/')?, text)));
        let pairs: Vec<Arc<str>> =
            pairs.flat_map(|(room, text)| [room.into(), text.as_str().into()]).collect();
        let rooms = StoredRooms::decode(&pairs).expect("valid rooms");
        Some(Self { principal: principal.to_owned(), id: id.to_owned(), fields: fields.clone(), rooms })
    }

    fn entry(&self) -> String {
        format!("{} {}", self.principal, self.id)
    }

    fn is(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

/// The same without acknowledgements, which records do not have.
fn unacknowledged(memberships: &Memberships) -> Memberships {
    memberships
        .iter()
        .map(|(room, membership)| {
            (room.clone(), StoredMembership { acknowledged: None, ..membership.clone() })
        })
        .collect()
}

fn room_states(memberships: &Memberships) -> RoomStates {
    let name = |room: &RoomName| ROOMS.into_iter().find(|name| *name == &**room).expect("one of these");
    memberships.iter().map(|(room, membership)| (name(room), membership.filter.clone())).collect()
}

impl World {
    fn stored(&self, session: &HeldSession) -> Option<StoredRecord> {
        let key = format!("m:{{@{}}}:session:{}", session.principal, session.id);
        StoredRecord::read(&key, self.engine.server.borrow().hash(&key)?)
    }

    /// Checks that each node has for its clients what they were told, and that Redis has what it has
    /// confirmed.
    pub(super) fn check_connections(&mut self) {
        for at in 0..self.connections.len() {
            if let Err(wrong) = self.check_connection(at) {
                self.fail(wrong);
            }
        }
    }

    fn check_connection(&mut self, at: usize) -> Result<(), String> {
        let connection @ ModelConnection { id, client, process, state, change, told, .. } =
            &self.connections[at];
        if *state != State::Open || self.node(*process).is_none() {
            return Ok(());
        }
        let session = self.leased(*process).sessions.by_connection(*id);
        let Some(session) = session.filter(|session| !session.has_ended()) else { return Ok(()) };
        let record = session.record();
        if change.is_none() && room_states(&record.rooms) != *told {
            return Err(format!("{id} has {:?}, and its client was told {told:?}", record.rooms));
        }
        let key = format!("m:{{@{}}}:session:{}", session.principal, session.id);
        let is_holder =
            self.checker.seen(&key).is_some_and(|seen| seen.holder.as_deref() == Some(&id.to_string()));
        if !is_holder || record.is_uncertain() || record.wants_write() {
            return Ok(());
        }
        let Some(stored) = self.stored(&session) else { return Ok(()) };
        if stored.is("conn") != id.to_string() || stored.is("gen") != record.generation.to_string() {
            return Err(format!("{id} has the session, and Redis says {:?}", stored.fields));
        }
        if stored.rooms.memberships != unacknowledged(&record.rooms) {
            return Err(format!(
                "{id} was told that it is in {:?}; Redis has {:?}",
                record.rooms, stored.fields
            ));
        }
        let (is_current, told, is_changing) =
            (self.clients[*client].current == Some(at), connection.told.clone(), change.is_some());
        drop(record);
        if is_current && !is_changing {
            self.clients[*client].set_known(&told);
        }
        Ok(())
    }

    /// Checks the state in Redis when nothing is in progress.
    pub(super) fn check_quiescent(&mut self) -> Result<(), String> {
        let is_exact = !self.checker.lost_data;
        let server = self.engine.clone();
        let mut server = server.server.borrow_mut();
        let now = server.cluster_time();
        let (mut records, mut owned_sets, mut sorted) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (key, kept) in server.values() {
            match kept {
                StoredValue::Hash(fields) => {
                    if let Some(stored) = StoredRecord::read(key, fields) {
                        records.insert(stored.entry(), stored);
                    }
                }
                StoredValue::Set(entries) => drop(owned_sets.insert(key.to_owned(), entries.clone())),
                StoredValue::Sorted(scores) => drop(sorted.insert(key.to_owned(), scores.clone())),
                StoredValue::List(_) => {}
            }
        }
        drop(server);
        let (mut held, mut expected) = (BTreeSet::new(), BTreeMap::<String, BTreeSet<String>>::new());
        for node in self.nodes.iter().flatten() {
            let leased = self.leased(node.process);
            let name = leased.context.node.get();
            expected.entry(format!("m:{{/node-{name}}}:estate")).or_default();
            for session in
                leased.sessions.page(None, usize::MAX).iter().filter(|session| !session.has_ended())
            {
                let entry = session.key().to_string();
                let record = session.record();
                let Some(stored) = records.get(&entry) else {
                    return Err(format!("{entry} is held, but Redis does not have it"));
                };
                let is = [stored.is("gen"), stored.is("conn"), stored.is("node"), stored.is("until")];
                let own =
                    [&*record.generation.to_string(), &*session.connection.to_string(), name.as_str(), ""];
                if is != own {
                    return Err(format!("{entry} is held as {own:?}, and Redis says {is:?}"));
                }
                if stored.rooms.memberships != unacknowledged(&record.rooms) || record.wants_write() {
                    return Err(format!(
                        "{entry} is held in {:?}, and Redis says {:?}",
                        record.rooms, stored.fields
                    ));
                }
                let owned = expected.entry(format!("m:{{/node-{name}}}:estate")).or_default();
                owned.insert(session.owned_entry().to_string());
                held.insert(entry);
            }
        }
        for (key, entries) in &expected {
            let owned = owned_sets.remove(key).unwrap_or_default();
            // An entry that was added by a late command is removed together with the node.
            let late_owned_entries = &self.late_owned_entries;
            if !entries.is_subset(&owned)
                || (is_exact && owned.difference(entries).any(|entry| !late_owned_entries.contains(entry)))
            {
                return Err(format!("{key} has {owned:?}, and should have {entries:?}"));
            }
        }
        for room in ROOMS {
            let members: BTreeSet<_> = sorted
                .get(&format!("m:{{{room}}}:members"))
                .into_iter()
                .flat_map(BTreeMap::keys)
                .cloned()
                .collect();
            let is_in = |stored: &&StoredRecord| stored.rooms.memberships.keys().any(|name| **name == *room);
            let by_record: BTreeSet<_> = records.values().filter(is_in).map(StoredRecord::entry).collect();
            let by_holder = by_record.intersection(&held).cloned().collect();
            if !members.is_superset(&by_holder) || (is_exact && members != by_record) {
                return Err(format!(
                    "{room} has the members {members:?}, and according to the records {by_record:?}"
                ));
            }
        }
        self.are_acknowledgements_kept(&records, &sorted)?;
        if !is_exact {
            return Ok(());
        }
        let ends = sorted.remove("m:{/nodes}:ends").unwrap_or_default();
        let resumable = records.iter().filter(|(entry, _)| !held.contains(*entry));
        let resumable: BTreeMap<_, _> = resumable
            .map(|(entry, stored)| (entry.clone(), stored.is("until").parse().unwrap_or(0.0)))
            .collect();
        // Neither in the past, nor further away than when the session was released.
        let is_in_time =
            |until: &f64| *until > now && *until <= now + SESSION_TTL.as_millis() as f64 + MAX_AHEAD_MS;
        if ends != resumable || !resumable.values().all(is_in_time) {
            return Err(format!(
                "at {now} these are listed to end: {ends:?}; according to the records: {resumable:?}"
            ));
        }
        let leases = sorted.remove("m:{/nodes}:leases").unwrap_or_default();
        if leases.values().any(|until| *until > now + LEASE_DURATION.as_millis() as f64 + MAX_AHEAD_MS) {
            return Err(format!("the leases are {leases:?} at {now}"));
        }
        owned_sets.retain(|_, entries| entries.iter().any(|entry| !self.late_owned_entries.contains(entry)));
        let dead = sorted.remove("m:{/nodes}:dead").unwrap_or_default();
        match dead.is_empty() && owned_sets.is_empty() {
            true => Ok(()),
            false => Err(format!("the dead nodes {dead:?} still own {owned_sets:?}")),
        }
    }

    /// Checks that acknowledgements are kept which clients sent to nodes that are alive, while they are
    /// members.
    fn are_acknowledgements_kept(
        &self,
        records: &BTreeMap<String, StoredRecord>,
        sorted: &BTreeMap<String, BTreeMap<String, f64>>,
    ) -> Result<(), String> {
        for client in self.clients.iter().filter(|client| !client.is_uncertain) {
            let Some(id) = client.token.map(|token| SessionId::of(&token)) else { continue };
            for (room, (position, process)) in &client.acknowledged {
                let stored = records.get(&SessionKey { principal: &client.principal, id }.to_string());
                let membership = stored.and_then(|stored| stored.rooms.memberships.get(*room));
                let server = self.engine.server.borrow();
                let epoch =
                    server.hash(&format!("m:{{{room}}}:room")).and_then(|hash| hash.get("epoch")).cloned();
                if membership.is_none()
                    || epoch.as_deref() != Some(&*position.epoch)
                    || self.node(*process).is_none()
                {
                    continue;
                }
                let acks = &sorted[&format!("m:{{{room}}}:acks")];
                if acks[&id.to_string()] < position.offset as f64 {
                    return Err(format!("{position:?} of {room} was acknowledged, and Redis has {acks:?}"));
                }
            }
        }
        Ok(())
    }
}
