//! How a room's members are judged again when another plugin governs the room. Makes no decision.

use super::*;

/// A member that has to be judged again.
pub(crate) struct MemberToJudge {
    pub seat: SeatId,
    pub connection: Arc<Connection>,
    /// As the client wrote it.
    pub filter_text: Option<Arc<str>>,
}

impl Room {
    pub(crate) fn name(&self) -> &RoomName {
        &self.name
    }

    /// Keeps the text of a member's filter. Returns the one before.
    pub(crate) fn set_filter_text(
        &mut self,
        member: ConnectionId,
        text: Option<Arc<str>>,
    ) -> Option<Arc<str>> {
        match text {
            Some(text) => self.filter_texts.insert(member, text),
            None => self.filter_texts.remove(&member),
        }
    }

    /// All members, with their filters as the clients wrote them.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (&Arc<Connection>, Option<&Arc<str>>)> {
        let live = self.groups.iter().flat_map(|group| &group.members);
        let behind = self.catching_up.values().map(|catch_up| &catch_up.connection);
        live.chain(behind).map(|member| (member, self.filter_texts.get(&member.id)))
    }

    /// The filters of all members as the clients wrote them.
    pub(crate) fn filter_texts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.filter_texts.values()
    }

    /// All members with their filters, which the caller has to release.
    pub(crate) fn filters_of_members(
        &self,
    ) -> impl Iterator<Item = (ConnectionId, &Arc<str>, Option<FilterId>)> {
        let live =
            self.groups.iter().flat_map(|group| group.members.iter().map(|member| (member, group.filter)));
        let behind = self.catching_up.values().map(|catch_up| (&catch_up.connection, catch_up.filter));
        live.chain(behind).map(|(member, filter)| (member.id, &member.principal, filter))
    }

    /// Takes all filters off the members, because they belong to the previous governor. Nothing may be
    /// delivered until [`set_filter`](Self::set_filter) was called for all members.
    pub(crate) fn begin_judging(&mut self) -> Vec<MemberToJudge> {
        let mut live = vec![];
        for group in self.groups.drain(1..) {
            live.extend(group.members);
        }
        self.group_of.clear();
        for member in live {
            let serial = self.seats[&member.id].serial;
            self.go_live(member, None, serial);
        }
        for catch_up in self.catching_up.values_mut() {
            self.seats.get_mut(&catch_up.connection.id).expect("members have seats").filter = None;
            catch_up.restart_with(None);
        }
        let connections =
            self.groups[0].members.iter().chain(self.catching_up.values().map(|c| &c.connection));
        let member = |connection: &Arc<Connection>| MemberToJudge {
            seat: SeatId { connection: connection.id, serial: self.seats[&connection.id].serial },
            connection: connection.clone(),
            filter_text: self.filter_texts.get(&connection.id).cloned(),
        };
        connections.map(member).collect()
    }

    /// Gives a member the filter that its new governor granted.
    pub(crate) fn set_filter(&mut self, seat: SeatId, filter: FilterId) {
        let id = seat.connection;
        if let Some(catch_up) = self.catching_up.get_mut(&id) {
            catch_up.restart_with(Some(filter));
            self.seats.get_mut(&id).expect("members have seats").filter = Some(filter);
        } else if let Some((connection, _)) = self.remove(id) {
            self.go_live(connection, Some(filter), seat.serial);
        }
    }
}
