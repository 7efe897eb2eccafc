//! How a plugin's shard shares its thread. Deliveries and what members do are handled at once and in order. For questions
//! to the plugin, principals take turns of a limited time. A call cannot be interrupted, so a principal whose calls take
//! long pauses after each one while others use the plugin, and these find it idle most of the time.

use super::*;
use std::collections::VecDeque;
use switchyard_process::fair_queue::{FairQueue, TurnStep};

/// How long a principal's turn takes, and how long deliveries take between two turns. A call that has begun is completed.
const TURN_DURATION: Duration = Duration::from_micros(250);

/// After a turn that took too long, its principal pauses for this many times as long, so that it has the thread for a third
/// of the time at most.
const PAUSE_FACTOR: u32 = 2;
/// A principal uses the plugin if it has had a turn within this time.
const USE_PERIOD: Duration = Duration::from_secs(1);

/// Commands that are sorted before any of them is handled.
const MAX_SORTED_COMMANDS: usize = 4096;

/// Commands that have been received and not handled.
#[derive(Default)]
struct Received {
    /// Handled in order, whoever they come from.
    live: VecDeque<Command>,
    turns: FairQueue<Question>,
    pauses: Pauses,
}

/// Principals that pause, and until when.
#[derive(Default)]
struct Pauses {
    until: HashMap<Arc<str>, Instant>,
    /// The principal that had the last turn, and when.
    last: Option<(Arc<str>, Instant)>,
    /// The last other principal that had a turn, and when.
    before: Option<(Arc<str>, Instant)>,
}

impl Pauses {
    /// Notes that a principal had a turn.
    fn note(&mut self, who: Arc<str>, began: Instant, now: Instant) {
        let uses = |other: &Option<(Arc<str>, Instant)>| {
            other.as_ref().is_some_and(|(other, at)| *other != who && now.duration_since(*at) < USE_PERIOD)
        };
        let took = now.duration_since(began);
        if took > TURN_DURATION * 2 && (uses(&self.last) || uses(&self.before)) {
            self.until.insert(who.clone(), now + took * PAUSE_FACTOR);
        }
        if self.last.as_ref().is_some_and(|(last, _)| *last != who) {
            self.before = self.last.take();
        }
        self.last = Some((who, now));
    }

    /// Ends pauses that are over, and returns when the next one is.
    fn end_due(&mut self, now: Instant) -> Option<Instant> {
        if !self.until.is_empty() {
            self.until.retain(|_, until| *until > now);
        }
        self.until.values().min().copied()
    }
}

impl Received {
    /// `None` if there is something to do now; otherwise when there will be, even if nothing else arrives.
    fn idle(&mut self, now: Instant) -> Option<Option<Instant>> {
        let due = self.pauses.end_due(now);
        let pausing = &self.pauses.until;
        let is_idle = self.live.is_empty() && self.turns.principals().all(|who| pausing.contains_key(who));
        is_idle.then(|| due.filter(|_| !self.turns.is_empty()))
    }
}

impl Shard {
    /// [`run`](Self::run) for a shard with a plugin, whether a version is active or not.
    pub(super) async fn run_in_turns(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let (mut batch, mut received) = (Vec::with_capacity(BATCH), Received::default());
        loop {
            if let Some(due) = received.idle(Instant::now()) {
                let due = self.flush.due().into_iter().chain(due).min();
                let taken = match due {
                    None => Some(commands.recv_many(&mut batch, BATCH).await),
                    Some(due) => timeout_at(due.into(), commands.recv_many(&mut batch, BATCH)).await.ok(),
                };
                if taken == Some(0) {
                    return;
                }
            }
            // All of them, so that a principal that has just come need not wait for all others.
            let queued = std::iter::from_fn(|| commands.try_recv().ok());
            for command in batch.drain(..).chain(queued).take(MAX_SORTED_COMMANDS) {
                match command {
                    Command::Question(question) => match self.asker(&question) {
                        Some(who) => received.turns.push(who, question),
                        // The seat is gone, so the answer needs no call.
                        None => received.live.push_back(Command::Question(question)),
                    },
                    command => received.live.push_back(command),
                }
            }
            let until = Instant::now() + TURN_DURATION;
            while let Some(command) = received.live.pop_front() {
                self.handle(command);
                if Instant::now() >= until {
                    break;
                }
            }
            let began = Instant::now();
            let Received { turns, pauses, .. } = &mut received;
            let may = |who: &Arc<str>| !pauses.until.contains_key(who);
            let served = turns.serve_next_where(may, |question| {
                match self.answer(question, Some(began + TURN_DURATION)) {
                    Some(rest) => TurnStep::EndWithRest(rest),
                    None if began.elapsed() < TURN_DURATION => TurnStep::Continue,
                    None => TurnStep::End,
                }
            });
            if let Some(who) = served {
                pauses.note(who, began, Instant::now());
            }
            // Before anybody learns the result.
            self.tell_publishers();
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
    }

    /// The principal on whose behalf the plugin is asked. `None` if the seat is gone.
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

    /// Regression: publishing to order books of 60 kB made publishes of another principal take 8 times as long.
    #[test]
    fn a_principal_with_long_calls_pauses_while_others_use_the_plugin() {
        let (mut pauses, start) = (Pauses::default(), Instant::now());
        let [mallory, acme] = ["mallory", "acme"].map(Arc::<str>::from);
        let long = Duration::from_millis(5);
        pauses.note(mallory.clone(), start, start + long);
        assert_eq!(pauses.end_due(start), None, "nobody else is there");
        let later = start + Duration::from_secs(1);
        pauses.note(acme.clone(), later, later + TURN_DURATION);
        pauses.note(mallory.clone(), later, later + long);
        assert_eq!(pauses.end_due(later + long), Some(later + long * 3));
        assert_eq!(pauses.end_due(later + long * 3), None);
        pauses.note(mallory.clone(), later, later + long * 3);
        assert!(pauses.until.contains_key(&mallory), "it pauses after each");
        let alone = later + USE_PERIOD * 2;
        pauses.end_due(alone);
        pauses.note(mallory, alone, alone + long);
        assert_eq!(pauses.end_due(alone), None, "the other one is gone");
    }
}
