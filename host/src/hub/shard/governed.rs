//! How a plugin's shard shares its thread: what is on its way to members and what members do comes in order and at once;
//! questions to the plugin come in turns by principal, each a slice of time.

use super::{super::command::Sieving, *};
use crate::turns::{Served, Turns};
use std::collections::VecDeque;
use tokio::sync::mpsc::error::TryRecvError;

/// How long a principal's turn takes, and how long deliveries go on between two turns; a call that was begun is not cut.
const TURN: Duration = Duration::from_micros(250);

/// Commands that are sorted at once.
const SORTED: usize = 4096;

/// What is to be done.
#[derive(Default)]
struct Waiting {
    /// In order, without regard to whose it is.
    live: VecDeque<Command>,
    turns: Turns<Command>,
}

impl Shard {
    /// [`run`](Self::run) for a shard that has a plugin, or is to have one.
    pub(super) async fn run_in_turns(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let (mut batch, mut waiting) = (Vec::with_capacity(BATCH), Waiting::default());
        loop {
            if waiting.live.is_empty() && waiting.turns.is_empty() {
                let taken = match self.flush.due() {
                    None => Some(commands.recv_many(&mut batch, BATCH).await),
                    Some(due) => timeout_at(due.into(), commands.recv_many(&mut batch, BATCH)).await.ok(),
                };
                if taken == Some(0) {
                    return;
                }
                batch.drain(..).for_each(|command| self.sort(command, &mut waiting));
            }
            // Whoever has just come is not to wait until all who came before are served.
            for _ in 0..SORTED {
                match commands.try_recv() {
                    Ok(command) => self.sort(command, &mut waiting),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let until = Instant::now() + TURN;
            while let Some(command) = waiting.live.pop_front() {
                self.handle(command);
                if Instant::now() >= until {
                    break;
                }
            }
            let until = Instant::now() + TURN;
            waiting.turns.take(|command| self.serve(command, until));
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
    }

    fn sort(&mut self, command: Command, waiting: &mut Waiting) {
        let who = match &command {
            Command::Join { joining, .. } => Some(joining.connection.principal.clone()),
            Command::Check { publishing, .. } => Some(publishing.who.clone()),
            Command::Sieve(Sieving { room, seat, .. }) => {
                self.room(room).and_then(|room| room.filter_of(*seat)).map(|(_, who)| who)
            }
            _ => None,
        };
        match who {
            Some(who) => waiting.turns.push(who, command),
            None => waiting.live.push_back(command),
        }
    }

    /// Answers a question, or a part of it; who gave up waiting costs the plugin nothing.
    fn serve(&mut self, command: Command, until: Instant) -> Served<Command> {
        match command {
            Command::Join { reply, .. } if reply.is_closed() => return Served::Whole,
            Command::Check { reply, .. } if reply.is_closed() => return Served::Whole,
            Command::Sieve(sieving) if sieving.reply.is_closed() => return Served::Whole,
            Command::Sieve(sieving) => {
                if let Some(rest) = self.sieve(sieving, Some(until)) {
                    return Served::Part(Command::Sieve(rest));
                }
            }
            command => self.handle(command),
        }
        if Instant::now() < until { Served::Whole } else { Served::Last }
    }
}
