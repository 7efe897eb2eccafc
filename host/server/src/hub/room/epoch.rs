//! What a room has lost and in which epoch it goes on: who is told, who waits until the room gets as far as they are, and
//! what an acknowledgement stands for.

use super::*;
use switchyard_protocol::Frame;
use tokio::sync::oneshot;

impl Room {
    /// Messages up to `position` are lost to every live member, who is told; how many were. A member that catches up is told
    /// by its replay, which asks the log what of it concerns the member.
    pub(crate) fn lose(&mut self, position: Position) -> u64 {
        let anew = position.epoch != self.position.epoch;
        if !anew && position.offset <= self.position.offset {
            return 0;
        }
        let before = std::mem::replace(&mut self.position, position);
        let gap: Frame = reply::gap(&self.name, &self.position.epoch, self.position.offset + 1).into();
        let mut told = 0;
        for member in self.groups.iter().flat_map(|group| &group.members) {
            told += u64::from(match anew {
                true => member.tell(gap.clone(), &self.name, &before.epoch, &self.position),
                false => member.outbox.push(gap.clone()),
            });
        }
        self.catching_up.values_mut().for_each(|catch_up| catch_up.lose(&self.position));
        self.settle_waiting();
        told
    }

    /// A replay has sent its member everything up to `upto`, or, where that is `lost`, found that it is not there: then the
    /// member is told. The answer may have to wait until the room is where the member is.
    pub(crate) fn settle(
        &mut self,
        seat: SeatId,
        upto: Position,
        lost: bool,
        reply: oneshot::Sender<Settled>,
    ) {
        let gone = !self.holds(seat);
        let settled = match self.catching_up.get_mut(&seat.connection) {
            _ if gone => Settled::Gone,
            None => Settled::Live,
            Some(catch_up) => {
                if lost {
                    catch_up.tell(&self.name, &upto);
                }
                catch_up.progress.set(upto);
                match catch_up.settle(&self.position) {
                    Some(settled) => settled,
                    None => {
                        catch_up.waits = Some(reply);
                        return;
                    }
                }
            }
        };
        if settled == Settled::Live {
            self.take_live(seat.connection);
        }
        reply.send(settled).ok();
    }

    /// Answers those who waited for the room to move, where it did so for them.
    pub(super) fn settle_waiting(&mut self) {
        let mut arrived = vec![];
        for (id, catch_up) in self.catching_up.iter_mut().filter(|(_, catch_up)| catch_up.waits.is_some()) {
            match catch_up.settle(&self.position) {
                None => {}
                Some(Settled::Live) => arrived.push(*id),
                Some(settled) => {
                    catch_up.waits.take().map(|reply| reply.send(settled));
                }
            }
        }
        arrived.into_iter().for_each(|id| self.take_live(id));
    }

    /// Hands over what was kept back for a member; from here on it hears what comes.
    fn take_live(&mut self, id: ConnectionId) {
        let Some(mut catch_up) = self.catching_up.remove(&id) else { return };
        let serial = self.seats[&id].serial;
        catch_up.hand_over();
        catch_up.waits.take().map(|reply| reply.send(Settled::Live));
        self.go_live(catch_up.connection.clone(), catch_up.filter, serial);
    }

    /// The position that a member acknowledges with an offset, in the epoch that it names or else in the one that it was told
    /// last; nothing beyond what it was sent.
    pub(crate) fn acknowledge(
        &self,
        seat: SeatId,
        epoch: Option<&str>,
        offset: u64,
    ) -> Result<Position, AckError> {
        let place = self.seats.get(&seat.connection).filter(|place| place.serial == seat.serial);
        let place = place.ok_or(AckError::Unsent)?;
        let (connection, sent) = match self.catching_up.get(&seat.connection) {
            Some(catch_up) => {
                let mut sent = catch_up.progress.at();
                // Before it came back it may have been sent more than its replay has reached.
                if sent.epoch == self.position.epoch {
                    sent.offset = sent.offset.max(self.position.offset);
                }
                (&catch_up.connection, sent)
            }
            None => {
                let group = self.group(place.filter).ok_or(AckError::Unsent)?;
                (&self.groups[group].members[place.index], self.position.clone())
            }
        };
        match epoch {
            Some(epoch) if *epoch != *sent.epoch => return Err(AckError::OtherEpoch(sent.epoch)),
            // It may have been sent before the client heard of the new epoch. Its answer to the ping will be here first
            // otherwise.
            None if connection.pings.unheard(&self.name).is_some() => {
                return Err(AckError::Unheard(sent.epoch));
            }
            _ if offset > sent.offset => return Err(AckError::Unsent),
            Some(_) => connection.pings.forget(&self.name),
            None => {}
        }
        Ok(Position { offset, ..sent })
    }
}

impl CatchUp {
    /// Tells the member that everything up to `upto` is lost to it.
    fn tell(&self, room: &RoomName, upto: &Position) {
        let gap = reply::gap(room, &upto.epoch, upto.offset + 1).into();
        let before = self.progress.at().epoch;
        match before == upto.epoch {
            true => self.connection.outbox.push(gap),
            false => self.connection.tell(gap, room, &before, upto),
        };
    }
}

#[cfg(test)]
mod tests;
