//! How a plugin's shard shares its thread: what is on its way to members and what members do comes in order and at once;
//! questions to the plugin come in turns by principal, each a slice of time. A call cannot be cut: who asks for long ones rests after
//! each while others use the plugin, so that these find it idle most of the time.

use super::*;
use std::collections::VecDeque;
use switchyard_process::fair_queue::{FairQueue, TurnStep};

/// How long a principal's turn takes, and how long deliveries go on between two turns; a call that was begun is not cut.
const TURN: Duration = Duration::from_micros(250);

/// So many times as long as a turn took that was too long its principal rests, while others use the plugin: it has the thread for a
/// third of the time then.
const REST: u32 = 2;
/// Who has asked within this time uses the plugin.
const USES: Duration = Duration::from_secs(1);

/// Commands that are sorted at once.
const SORTED: usize = 4096;

/// What is to be done.
#[derive(Default)]
struct Waiting {
    /// In order, without regard to whose it is.
    live: VecDeque<Command>,
    turns: FairQueue<Question>,
    rests: Rests,
}

/// Who rests, and until when.
#[derive(Default)]
struct Rests {
    until: HashMap<Arc<str>, Instant>,
    /// Who had a turn last, and who before it, and when.
    last: Option<(Arc<str>, Instant)>,
    before: Option<(Arc<str>, Instant)>,
}

impl Rests {
    /// A principal had a turn.
    fn note(&mut self, who: Arc<str>, began: Instant, now: Instant) {
        let uses = |other: &Option<(Arc<str>, Instant)>| {
            other.as_ref().is_some_and(|(other, at)| *other != who && now.duration_since(*at) < USES)
        };
        let took = now.duration_since(began);
        if took > TURN * 2 && (uses(&self.last) || uses(&self.before)) {
            self.until.insert(who.clone(), now + took * REST);
        }
        if self.last.as_ref().is_some_and(|(last, _)| *last != who) {
            self.before = self.last.take();
        }
        self.last = Some((who, now));
    }

    /// Forgets who has rested. When the next one has, if anybody rests.
    fn wake(&mut self, now: Instant) -> Option<Instant> {
        if !self.until.is_empty() {
            self.until.retain(|_, until| *until > now);
        }
        self.until.values().min().copied()
    }
}

impl Waiting {
    /// When there is something to do unless something comes: `None` is now.
    fn idle(&mut self, now: Instant) -> Option<Option<Instant>> {
        let due = self.rests.wake(now);
        let rests = &self.rests.until;
        let is_idle = self.live.is_empty() && self.turns.principals().all(|who| rests.contains_key(who));
        is_idle.then(|| due.filter(|_| !self.turns.is_empty()))
    }
}

impl Shard {
    /// [`run`](Self::run) for a shard that has a plugin, or is to have one.
    pub(super) async fn run_in_turns(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let (mut batch, mut waiting) = (Vec::with_capacity(BATCH), Waiting::default());
        loop {
            if let Some(rested) = waiting.idle(Instant::now()) {
                let due = self.flush.due().into_iter().chain(rested).min();
                let taken = match due {
                    None => Some(commands.recv_many(&mut batch, BATCH).await),
                    Some(due) => timeout_at(due.into(), commands.recv_many(&mut batch, BATCH)).await.ok(),
                };
                if taken == Some(0) {
                    return;
                }
            }
            // Whoever has just come is not to wait until all who came before are served.
            let queued = std::iter::from_fn(|| commands.try_recv().ok());
            for command in batch.drain(..).chain(queued).take(SORTED) {
                match command {
                    Command::Question(question) => match self.asker(&question) {
                        Some(who) => waiting.turns.push(who, question),
                        // Its answer needs no call.
                        None => waiting.live.push_back(Command::Question(question)),
                    },
                    command => waiting.live.push_back(command),
                }
            }
            let until = Instant::now() + TURN;
            while let Some(command) = waiting.live.pop_front() {
                self.handle(command);
                if Instant::now() >= until {
                    break;
                }
            }
            let began = Instant::now();
            let Waiting { turns, rests, .. } = &mut waiting;
            let may = |who: &Arc<str>| !rests.until.contains_key(who);
            let served =
                turns.serve_next_where(may, |question| match self.answer(question, Some(began + TURN)) {
                    Some(rest) => TurnStep::EndWithRest(rest),
                    None if began.elapsed() < TURN => TurnStep::Continue,
                    None => TurnStep::End,
                });
            if let Some(who) = served {
                rests.note(who, began, Instant::now());
            }
            // Before anybody hears what came of it.
            self.tell_publishers();
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
    }

    /// On whose behalf the plugin is asked. `None` if a seat is gone.
    fn asker(&mut self, question: &Question) -> Option<Arc<str>> {
        match question {
            Question::Join { request, .. } => Some(request.connection.principal.clone()),
            Question::Check { message, .. } => Some(message.who.clone()),
            Question::Sieve(Sieving { room, seat, .. }) => {
                self.room(room)?.filter_of(*seat).map(|(_, who)| who)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Books of 60 kB took another tenant's publishes 8 times as long.
    #[test]
    fn who_asks_for_long_calls_rests_while_others_use_the_plugin() {
        let (mut rests, start) = (Rests::default(), Instant::now());
        let [mallory, acme] = ["mallory", "acme"].map(Arc::<str>::from);
        let long = Duration::from_millis(5);
        rests.note(mallory.clone(), start, start + long);
        assert_eq!(rests.wake(start), None, "nobody else is there");
        let later = start + Duration::from_secs(1);
        rests.note(acme.clone(), later, later + TURN);
        rests.note(mallory.clone(), later, later + long);
        assert_eq!(rests.wake(later + long), Some(later + long * 3));
        assert_eq!(rests.wake(later + long * 3), None);
        rests.note(mallory.clone(), later, later + long * 3);
        assert!(rests.until.contains_key(&mallory), "it rests after each");
        let alone = later + USES * 2;
        rests.wake(alone);
        rests.note(mallory, alone, alone + long);
        assert_eq!(rests.wake(alone), None, "the other one is gone");
    }
}
