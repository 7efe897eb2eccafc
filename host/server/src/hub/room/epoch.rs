//! How a room's position changes other than by delivery: through lost messages and new epochs. Also what
//! depends on that: when members that are catching up go live, and which position an acknowledgement means.
//! Does not deliver messages.

use super::*;
use switchyard_protocol::Frame;
use tokio::sync::oneshot;

impl Room {
    /// Continues after `position`, because the messages up to there are lost, and tells live members with a
    /// gap. Returns how many were told. A member that is catching up is told by its replay, which asks the
    /// log what the member has missed.
    pub(crate) fn skip_to(&mut self, position: Position) -> u64 {
        let is_new_epoch = position.epoch != self.position.epoch;
        if !is_new_epoch && position.offset <= self.position.offset {
            return 0;
        }
        let before = std::mem::replace(&mut self.position, position);
        let gap: Frame = reply::gap(&self.name, &self.position.epoch, self.position.offset + 1).into();
        let mut told = 0;
        for member in self.groups.iter().flat_map(|group| &group.members) {
            told += u64::from(match is_new_epoch {
                true => member.push_epoch_gap(gap.clone(), &self.name, &before.epoch, &self.position),
                false => member.outbox.push(gap.clone()),
            });
        }
        self.catching_up.values_mut().for_each(|catch_up| catch_up.skip_to(&self.position));
        self.answer_waiting_replays();
        told
    }

    /// A replay has sent its member everything up to `upto`. If `lost`, the messages up to there are lost
    /// instead, and the member is told here. The reply waits if the room itself is not there yet.
    pub(crate) fn finish_catch_up(
        &mut self,
        seat: SeatId,
        upto: Position,
        lost: bool,
        reply: oneshot::Sender<CatchUpOutcome>,
    ) {
        let is_gone = !self.is_current(seat);
        let outcome = match self.catching_up.get_mut(&seat.connection) {
            _ if is_gone => CatchUpOutcome::Gone,
            None => CatchUpOutcome::Live,
            Some(catch_up) => {
                if lost {
                    catch_up.push_gap(&self.name, &upto);
                }
                catch_up.progress.set_position(upto);
                match catch_up.outcome(&self.position) {
                    Some(outcome) => outcome,
                    None => {
                        catch_up.waiting = Some(reply);
                        return;
                    }
                }
            }
        };
        if outcome == CatchUpOutcome::Live {
            self.complete_catch_up(seat.connection);
        }
        reply.send(outcome).ok();
    }

    /// Answers the replays that waited for the room to get to where it is now.
    pub(super) fn answer_waiting_replays(&mut self) {
        let mut live = vec![];
        for (id, catch_up) in self.catching_up.iter_mut().filter(|(_, catch_up)| catch_up.waiting.is_some()) {
            match catch_up.outcome(&self.position) {
                None => {}
                Some(CatchUpOutcome::Live) => live.push(*id),
                Some(outcome) => {
                    catch_up.waiting.take().map(|reply| reply.send(outcome));
                }
            }
        }
        live.into_iter().for_each(|id| self.complete_catch_up(id));
    }

    /// Sends a member what was buffered for it. From here on it is live.
    fn complete_catch_up(&mut self, id: ConnectionId) {
        let Some(mut catch_up) = self.catching_up.remove(&id) else { return };
        let serial = self.seats[&id].serial;
        catch_up.send_buffered();
        catch_up.waiting.take().map(|reply| reply.send(CatchUpOutcome::Live));
        self.go_live(catch_up.connection.clone(), catch_up.filter, serial);
    }

    /// The position that a member acknowledges with an offset. The offset is of the epoch that the member
    /// names, or else of the one that it was told last, and must not be beyond what the member was sent.
    pub(crate) fn acknowledge(
        &self,
        seat: SeatId,
        epoch: Option<&str>,
        offset: u64,
    ) -> Result<Position, AckError> {
        let entry = self.seat_entry(seat).ok_or(AckError::Unsent)?;
        let (connection, sent) = match self.catching_up.get(&seat.connection) {
            Some(catch_up) => {
                let mut sent = catch_up.progress.position();
                // Its earlier connection may have been sent more than this one's replay so far.
                if sent.epoch == self.position.epoch {
                    sent.offset = sent.offset.max(self.position.offset);
                }
                (&catch_up.connection, sent)
            }
            None => {
                let group = self.group(entry.filter).ok_or(AckError::Unsent)?;
                (&self.groups[group].members[entry.index], self.position.clone())
            }
        };
        match epoch {
            Some(epoch) if *epoch != *sent.epoch => return Err(AckError::OtherEpoch(sent.epoch)),
            // The client may not have known of the new epoch. If it did, its answer to the ping would have
            // arrived first.
            None if connection.pings.unconfirmed_epoch(&self.name).is_some() => {
                return Err(AckError::UnconfirmedEpoch(sent.epoch));
            }
            _ if offset > sent.offset => return Err(AckError::Unsent),
            Some(_) => connection.pings.forget(&self.name),
            None => {}
        }
        Ok(Position { offset, ..sent })
    }
}

impl CatchUp {
    /// Tells the member that it has missed everything up to `upto`.
    fn push_gap(&self, room: &RoomName, upto: &Position) {
        let gap = reply::gap(room, &upto.epoch, upto.offset + 1).into();
        let before = self.progress.position().epoch;
        match before == upto.epoch {
            true => self.connection.outbox.push(gap),
            false => self.connection.push_epoch_gap(gap, room, &before, upto),
        };
    }
}

#[cfg(test)]
mod tests;
