//! The members of rooms, and what each of them received.

use crate::{
    line::{Delivery, Line, micros},
    peer::{Joined, Peer},
};
use futures_util::{StreamExt, stream};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{task::JoinHandle, time::sleep};

/// Maximum number of connections that are opened at the same time.
const MAX_OPENING: usize = 64;

/// What a member has received since the last report.
#[derive(Default)]
pub struct Received {
    /// The last offset of each room.
    last: HashMap<Vec<u8>, u64>,
    pub messages: u64,
    /// Latencies in microseconds, from when a message was due.
    pub late: Vec<u32>,
    /// Offsets that were duplicates or out of order.
    pub out_of_order: u64,
    /// Offsets that are missing, if all are expected.
    pub missing: u64,
    /// Frames that are not messages.
    pub unexpected: u64,
    pub ended: bool,
}

impl Received {
    pub fn last(&self, room: &str) -> Option<u64> {
        self.last.get(room.as_bytes()).copied()
    }

    /// Records a message. `now` is in microseconds. With `whole`, all offsets are expected.
    pub fn record(&mut self, text: &[u8], now: u64, whole: bool) {
        let Some(Delivery { room, offset, at }) = Delivery::read(text) else {
            self.unexpected += 1;
            return;
        };
        match self.last.get_mut(room) {
            Some(last) => {
                match offset {
                    _ if offset <= *last => self.out_of_order += 1,
                    _ if whole => self.missing += offset - *last - 1,
                    _ => {}
                }
                *last = offset.max(*last);
            }
            None => drop(self.last.insert(room.to_vec(), offset)),
        }
        self.messages += 1;
        self.late.push(now.saturating_sub(at) as u32);
    }

    pub fn wrong(&self) -> u64 {
        self.out_of_order + self.missing + self.unexpected + u64::from(self.ended)
    }
}

pub struct Crowd {
    members: Vec<(Arc<Mutex<Received>>, JoinHandle<()>)>,
    /// For each member, how many microseconds it took to join, and its session.
    pub joined: Vec<(u64, String)>,
    /// The number of members that could not join.
    pub refused: u64,
}

impl Crowd {
    /// Connects members. `rooms` returns the rooms and the filter of each by its number.
    pub async fn gather(
        peer: &Peer,
        count: usize,
        choose_rooms: impl Fn(usize) -> (Vec<String>, Option<String>),
    ) -> Self {
        let joining = stream::iter(0..count).map(|n| {
            let (rooms, filter) = choose_rooms(n);
            async move { (peer.join(&rooms, filter.as_deref()).await, filter.is_none()) }
        });
        let mut crowd = Self { members: vec![], joined: vec![], refused: 0 };
        let mut joining = joining.buffer_unordered(MAX_OPENING);
        while let Some((joined, whole)) = joining.next().await {
            match joined {
                Ok(Joined { line, session, took }) => {
                    crowd.joined.push((took, session));
                    crowd.seat(line, whole);
                }
                Err(error) => {
                    eprintln!("bench-load: a member could not join: {error}");
                    crowd.refused += 1;
                }
            }
        }
        crowd
    }

    fn seat(&mut self, line: Line, whole: bool) {
        let received = Arc::new(Mutex::new(Received::default()));
        self.members.push((received.clone(), tokio::spawn(listen(line, received, whole))));
    }

    /// What all members have received since the last report.
    pub fn take(&self) -> Received {
        let mut all = Received::default();
        for (received, _) in &self.members {
            let received = &mut *lock(received);
            all.messages += std::mem::take(&mut received.messages);
            all.late.append(&mut received.late);
            all.out_of_order += std::mem::take(&mut received.out_of_order);
            all.missing += std::mem::take(&mut received.missing);
            all.unexpected += std::mem::take(&mut received.unexpected);
            all.ended |= received.ended;
        }
        all
    }

    pub fn messages(&self) -> u64 {
        self.members.iter().map(|(received, _)| lock(received).messages).sum()
    }

    /// Waits until they have received `count` messages, or receive no more.
    pub async fn wait_for_messages(&self, messages: u64) {
        let (mut before, mut quiet) = (self.messages(), 0);
        while before < messages && quiet < 20 {
            sleep(Duration::from_millis(50)).await;
            let now = self.messages();
            quiet = if now > before { 0 } else { quiet + 1 };
            before = now;
        }
    }

    /// Breaks all connections.
    pub fn lose(&mut self) {
        for (_, task) in self.members.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.lose();
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().expect("no panic")
}

async fn listen(mut line: Line, received: Arc<Mutex<Received>>, whole: bool) {
    while line.fill().await.is_ok() {
        let now = micros();
        let took = line.texts(|text| lock(&received).record(text, now, whole)).await;
        if took.is_err() {
            break;
        }
    }
    lock(&received).ended = true;
}
