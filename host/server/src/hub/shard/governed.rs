//! How a plugin's shard shares its thread. Deliveries and commands that need no call of the plugin are
//! handled at once and in order. For requests that may call the plugin, principals take turns of limited
//! length. A call cannot be interrupted, so a principal whose calls are slow pauses after each one while
//! others use the plugin. So the others find it idle most of the time.

use super::*;
use std::collections::VecDeque;
use switchyard_process::fair_queue::{FairQueue, TurnStep};

/// The length of a principal's turn, and of the deliveries between two turns. A call that has begun is
/// completed.
const TURN_DURATION: Duration = Duration::from_micros(250);

/// After a turn that was too long, its principal pauses for this many times its length, so that it has the
/// thread for at most a third of the time.
const PAUSE_FACTOR: u32 = 2;
/// A principal uses the plugin if it has had a turn within this time.
const USE_PERIOD: Duration = Duration::from_secs(1);

/// A shard whose plugin was not needed for this long leaves its thread with the next command.
const REST_DELAY: Duration = Duration::from_millis(100);

/// Maximum number of commands that are sorted before any of them is handled.
const MAX_SORTED_COMMANDS: usize = 4096;

/// Commands that were received and not handled yet.
#[derive(Default)]
pub(super) struct PendingCommands {
    /// Commands that need no call of the plugin. They are handled in order.
    immediate: VecDeque<ShardCommand>,
    requests: FairQueue<PolicyRequest>,
    pauses: Pauses,
}

/// The principals that are pausing, and until when.
#[derive(Default)]
struct Pauses {
    until: HashMap<Arc<str>, Instant>,
    /// The principal that had the last turn, and when.
    last: Option<(Arc<str>, Instant)>,
    /// The last other principal that had a turn, and when.
    previous: Option<(Arc<str>, Instant)>,
}

impl Pauses {
    /// Records that a principal had a turn.
    fn record_turn(&mut self, principal: Arc<str>, began: Instant, now: Instant) {
        let uses = |other: &Option<(Arc<str>, Instant)>| {
            other
                .as_ref()
                .is_some_and(|(other, at)| *other != principal && now.duration_since(*at) < USE_PERIOD)
        };
        let took = now.duration_since(began);
        if took > TURN_DURATION * 2 && (uses(&self.last) || uses(&self.previous)) {
            self.until.insert(principal.clone(), now + took * PAUSE_FACTOR);
        }
        if self.last.as_ref().is_some_and(|(last, _)| *last != principal) {
            self.previous = self.last.take();
        }
        self.last = Some((principal, now));
    }

    /// Ends pauses that are over, and returns when the next one ends.
    fn end_due(&mut self, now: Instant) -> Option<Instant> {
        if !self.until.is_empty() {
            self.until.retain(|_, until| *until > now);
        }
        self.until.values().min().copied()
    }
}

impl PendingCommands {
    /// Lets a principal pause.
    #[cfg(test)]
    pub(super) fn pause(&mut self, principal: Arc<str>, until: Instant) {
        self.pauses.until.insert(principal, until);
    }

    /// `None` if there is something to do now. Otherwise when there will be, even if nothing else arrives.
    fn idle_until(&mut self, now: Instant) -> Option<Option<Instant>> {
        let due = self.pauses.end_due(now);
        let pausing = &self.pauses.until;
        let is_idle = self.immediate.is_empty()
            && self.requests.principals().all(|principal| pausing.contains_key(principal));
        is_idle.then(|| due.filter(|_| !self.requests.is_empty()))
    }
}

impl Shard {
    /// Runs the shard of a plugin on its thread, until a command comes and the plugin was not needed for a while before
    /// it: then returns the shard with its queue. `None` when the shard has ended. `pending` has no commands at the
    /// beginning and at the end.
    pub(super) async fn run_in_turns(
        mut self,
        mut commands: mpsc::UnboundedReceiver<ShardCommand>,
        first: VecDeque<ShardCommand>,
        pending: &mut PendingCommands,
    ) -> Option<(Self, mpsc::UnboundedReceiver<ShardCommand>)> {
        let mut batch = Vec::with_capacity(COMMAND_BATCH_SIZE);
        let mut needed = Instant::now();
        first.into_iter().for_each(|command| self.sort(command, pending));
        loop {
            if let Some(due) = pending.idle_until(Instant::now()) {
                if due.is_none() && needed.elapsed() >= REST_DELAY {
                    return Some((self, commands));
                }
                let due = self.flush.due().into_iter().chain(due).min();
                let taken = match due {
                    None => Some(commands.recv_many(&mut batch, COMMAND_BATCH_SIZE).await),
                    Some(due) => {
                        timeout_at(due.into(), commands.recv_many(&mut batch, COMMAND_BATCH_SIZE)).await.ok()
                    }
                };
                if taken == Some(0) {
                    if pending.requests.is_empty() {
                        self.flush.write_all();
                        return None;
                    }
                    // The rooms have another owner now, which gets the requests.
                    pending.pauses.until.clear();
                }
            }
            // All queued commands, so that a principal that was not in the queue before gets its turn soon.
            let queued = std::iter::from_fn(|| commands.try_recv().ok());
            for command in batch.drain(..).chain(queued).take(MAX_SORTED_COMMANDS) {
                self.sort(command, pending);
            }
            let until = Instant::now() + TURN_DURATION;
            while let Some(command) = pending.immediate.pop_front() {
                if self.needs_thread(&command) {
                    needed = until;
                }
                self.handle(command);
                self.finish_swap().await;
                self.sort_released(pending);
                if Instant::now() >= until {
                    break;
                }
            }
            if !pending.requests.is_empty() {
                // What was delivered does not wait for the plugin.
                self.flush.write(Instant::now(), &self.queue);
            }
            let began = Instant::now();
            let PendingCommands { requests, pauses, .. } = pending;
            let is_eligible = |principal: &Arc<str>| !pauses.until.contains_key(principal);
            let mut is_needed = false;
            let served = requests.serve_next_where(is_eligible, |request| {
                is_needed |= self.may_call(&request);
                match self.answer(request, Some(began + TURN_DURATION)) {
                    Some(rest) => TurnStep::EndWithRest(rest),
                    None if began.elapsed() < TURN_DURATION => TurnStep::Continue,
                    None => TurnStep::End,
                }
            });
            if is_needed {
                needed = until;
            }
            if let Some(principal) = served {
                pauses.record_turn(principal, began, Instant::now());
            }
            self.flush.write(Instant::now(), &self.queue);
            tokio::task::yield_now().await;
        }
    }

    /// Sorts a command that was received. Whether it has to wait for its room is found out in the order of the
    /// commands, when it is handled.
    fn sort(&mut self, command: ShardCommand, pending: &mut PendingCommands) {
        match command {
            ShardCommand::Request(request) => match self.principal_of(&request) {
                Some(principal) => pending.requests.push(principal, request),
                // The seat is gone, or the room is not here yet. Neither needs a call.
                None => pending.immediate.push_back(ShardCommand::Request(request)),
            },
            command => pending.immediate.push_back(command),
        }
    }

    /// Sorts the commands whose room has arrived: before all others, because they came earlier.
    fn sort_released(&mut self, pending: &mut PendingCommands) {
        let released: Vec<_> = std::iter::from_fn(|| self.arrivals.next_released()).collect();
        for command in released.into_iter().rev() {
            match command {
                ShardCommand::Request(request) => match self.principal_of(&request) {
                    Some(principal) => pending.requests.push_front(principal, request),
                    None => pending.immediate.push_front(ShardCommand::Request(request)),
                },
                command => pending.immediate.push_front(command),
            }
        }
    }

    /// The principal on whose behalf the plugin is called. `None` if the seat is gone.
    fn principal_of(&mut self, request: &PolicyRequest) -> Option<Arc<str>> {
        match request {
            PolicyRequest::Join { request, .. } => Some(request.connection.principal.clone()),
            PolicyRequest::Check { message, .. } => Some(message.key.principal.clone()),
            PolicyRequest::FilterHistory(HistoryFilterRequest { room, seat, .. }) => {
                self.open_room(room)?.filter_of(*seat).map(|(_, principal)| principal)
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
        pauses.record_turn(mallory.clone(), start, start + long);
        assert_eq!(pauses.end_due(start), None, "nobody else is there");
        let later = start + Duration::from_secs(1);
        pauses.record_turn(acme.clone(), later, later + TURN_DURATION);
        pauses.record_turn(mallory.clone(), later, later + long);
        assert_eq!(pauses.end_due(later + long), Some(later + long * 3));
        assert_eq!(pauses.end_due(later + long * 3), None);
        pauses.record_turn(mallory.clone(), later, later + long * 3);
        assert!(pauses.until.contains_key(&mallory), "it pauses after each");
        let alone = later + USE_PERIOD * 2;
        pauses.end_due(alone);
        pauses.record_turn(mallory, alone, alone + long);
        assert_eq!(pauses.end_due(alone), None, "the other one is gone");
    }
}
