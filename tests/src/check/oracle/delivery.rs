//! The rules of messages and gaps: each message once, in order, as the filter requires; every loss is
//! reported, and nothing else is reported as lost.

use super::{Oracle, text};
use serde_json::Value;

impl Oracle<'_> {
    pub(super) fn message(&mut self, id: u32, frame: &Value) {
        let (name, facts) = (text(frame, "room"), self.facts);
        let offset = frame["offset"].as_u64().unwrap_or_default();
        let mut broken: Vec<(&'static str, String)> = vec![];
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let session = connection.token.as_ref().and_then(|token| self.sessions.get_mut(token));
        let here = connection.rooms.get_mut(name).filter(|here| here.is_member());
        let (Some(session), Some(here)) = (session, here) else {
            let what = format!("message {offset} came to a client that is not in the room");
            return self.report("no messages from rooms that were left or refused", Some(name), what);
        };
        let Some(view) = session.rooms.get_mut(name) else { return };
        if here.last.is_some_and(|last| last >= offset) {
            let last = here.last.unwrap_or_default();
            broken.push(("offsets increase", format!("{offset} came after {last}")));
        }
        if offset <= here.recorded_ack {
            let what = format!("{offset} came again, though {} was acknowledged", here.recorded_ack);
            broken.push(("no acknowledged message is repeated", what));
            here.recorded_ack = 0;
        }
        if let Some(epoch) = here.epoch.clone().filter(|_| here.epoch == view.epoch)
            && let Some(covered) = view.covered
        {
            match facts.log.get(name, &epoch, offset) {
                Some(message) if frame["data"]["n"] != message.number => {
                    let what =
                        format!("{offset} is message {}, and came as {}", message.number, frame["data"]);
                    broken.push(("messages arrive as published", what));
                }
                Some(message) if !view.may_deliver(here, offset, message.change) => {
                    let what = format!("{offset} with 0.{} does not pass {:?}", message.change, here.seats);
                    broken.push(("filters are applied", what));
                }
                _ => {}
            }
            let from = here.last.unwrap_or(covered);
            let skipped = facts.log.between(name, &epoch, from, offset);
            let missing: Vec<_> = skipped
                .filter(|(offset, message)| view.must_deliver(here, *offset, message.change))
                .map(|(offset, _)| offset)
                .collect();
            if !missing.is_empty() {
                let what = format!("{offset} came after {from}, without {missing:?}");
                broken.push(("no message is skipped", what));
            }
            view.cover(offset);
        }
        here.last = here.last.max(Some(offset));
        broken.into_iter().for_each(|(rule, what)| self.report(rule, Some(name), what));
    }

    pub(super) fn gap(&mut self, id: u32, frame: &Value) {
        let (name, epoch) = (text(frame, "room"), text(frame, "epoch"));
        let last = frame["offset"].as_u64().unwrap_or_default().saturating_sub(1);
        let nothing_gone = !self.is_gone(name, epoch, last);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let session = connection.token.as_ref().and_then(|token| self.sessions.get_mut(token));
        let here = connection.rooms.get_mut(name).filter(|here| here.is_member());
        let (Some(session), Some(here)) = (session, here) else {
            let what = "a gap came to a client that is not in the room".to_owned();
            return self.report("no messages from rooms that were left or refused", Some(name), what);
        };
        let Some(view) = session.rooms.get_mut(name) else { return };
        let went_back = here.epoch.as_deref() == Some(epoch) && here.last > Some(last);
        here.last = Some(last);
        let is_new = here.epoch.as_deref().is_some_and(|before| before != epoch);
        here.epoch = Some(epoch.to_owned());
        if view.epoch.as_deref() == Some(epoch) {
            view.cover(last);
        } else {
            *view = super::room::SessionRoom::join(epoch, last);
        }
        if is_new && !self.facts.lost_data {
            let what = format!("a gap to epoch {epoch}, though Redis lost nothing");
            self.report("a loss is reported only if messages are gone", Some(name), what);
        } else if went_back {
            let what = format!("a gap that ends before {}, which had come", last + 1);
            self.report("offsets increase", Some(name), what);
        } else if nothing_gone {
            let what = format!("a gap up to {last}, which is still held");
            self.report("a loss is reported only if messages are gone", Some(name), what);
        }
    }

    /// Whether a message may have been dropped from the history by the end.
    pub(super) fn is_gone(&self, room: &str, epoch: &str, offset: u64) -> bool {
        let newest = self.facts.log.newest(room, epoch);
        self.facts.lost_data || offset + self.facts.history <= newest
    }
}
