//! Runs a plugin locally on messages, with the same code and in the same order as a node, and records the
//! time and the instructions of each call.

use super::budget::BudgetArgs;
use crate::{
    json_argument::{parse_config, parse_data, parse_filter},
    publish::{
        feed::{self, FeedItem, FeedMessage, FeedReceiver},
        pace::Speed,
    },
};
use anyhow::bail;
use clap::Args;
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::{
    Budget, Counts, Engine, FilterId, Governor, OnFailure, Plugin, Principal, PublishRequest, Rejection,
    RejectionCode, Verdict,
};
use tracing::dispatcher::{Dispatch, with_default};

/// The minimum time limit of a call whose instructions are counted. Counting makes it slower, but must not
/// make it fail.
const MIN_COUNTING_TIME: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct TrialArgs {
    /// The plugin: a WebAssembly core module or a component
    file: PathBuf,
    /// The configuration to pass to the plugin
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_config)]
    config: serde_json::Value,
    #[command(flatten)]
    budget: BudgetArgs,
    /// The room of the message; with --from, the room of lines that have none
    #[arg(long, required_unless_present = "from")]
    room: Option<String>,
    /// The event of the message; with --from, the event of lines that have none
    #[arg(long)]
    event: Option<String>,
    /// The principal that publishes and subscribes
    #[arg(long, value_name = "PRINCIPAL", default_value = "author")]
    who: String,
    /// The tier of that principal
    #[arg(long, default_value = "default")]
    tier: String,
    /// A filter of a subscriber; can be repeated
    #[arg(long = "filter", value_name = "JSON", value_parser = parse_filter)]
    filters: Vec<Box<RawValue>>,
    /// How many rooms the connection and its principal are in, and how many members the room has, as the hook
    /// subscribe sees them. Without a filter, subscribes without one
    #[arg(long, value_name = "CONNECTION,PRINCIPAL,ROOM", value_parser = parse_counts)]
    counts: Option<Counts>,
    /// The message: any JSON value
    #[arg(required_unless_present = "from", allow_negative_numbers = true, value_parser = parse_data)]
    data: Option<Box<RawValue>>,
    /// A file with one message per line, {"time":ms,"room":"…","event":"…","data":…}, or - for standard input
    #[arg(long, value_name = "FILE.ndjson", conflicts_with = "data")]
    from: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

fn parse_counts(text: &str) -> Result<Counts, String> {
    let counts: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match counts.as_deref() {
        Ok(&[of_connection, of_principal, in_room]) => Ok(Counts { of_connection, of_principal, in_room }),
        _ => Err("expected three numbers such as 19,40,250".to_owned()),
    }
}

impl TrialArgs {
    pub(super) fn feed(&self) -> anyhow::Result<FeedReceiver> {
        if let Some(file) = &self.from {
            return Ok(feed::open(file, self.room.clone(), self.event.clone(), Speed::Max)?.0);
        }
        let data = self.data.clone().expect("clap requires it without --from");
        let room = self.room.clone().expect("clap requires it");
        Ok(feed::single(FeedMessage { line: None, time: None, room, event: self.event.clone(), data }))
    }

    /// The subscriptions to try: one for each filter.
    fn subscriptions(&self) -> Vec<Option<String>> {
        match self.counts {
            Some(_) if self.filters.is_empty() => vec![None],
            _ => self.filters.iter().map(|filter| Some(filter.get().to_owned())).collect(),
        }
    }

    pub(super) fn subscription_count(&self) -> usize {
        self.subscriptions().len()
    }
}

/// Returns the next message of a feed. An invalid line is an error.
pub(super) async fn next_message(feed: &mut FeedReceiver) -> anyhow::Result<Option<FeedMessage>> {
    match feed.recv().await {
        None => Ok(None),
        Some(FeedItem::Message(message)) => Ok(Some(message)),
        Some(FeedItem::InvalidLine(invalid)) => bail!("{invalid}"),
        Some(FeedItem::Unreadable(error)) => bail!("{error}"),
    }
}

/// A plugin that runs locally.
pub(super) struct Trial {
    governor: Governor,
    principal: Principal,
    /// The filter of each subscription.
    filters: Vec<Option<String>>,
    counts: Counts,
    /// By room: for each filter, whether the plugin granted it, and its id if it is not empty.
    granted: HashMap<String, Vec<Result<Option<FilterId>, Rejection>>>,
    pub(super) times: BTreeMap<&'static str, Vec<Duration>>,
    /// The instructions of the calls for the current message.
    spent: Instructions,
}

/// The number of instructions of each call, by hook.
pub(super) type Instructions = BTreeMap<&'static str, Vec<u64>>;

/// What the plugin does with a message.
pub(super) struct TrialOutcome {
    /// The canonical name of the room.
    pub(super) room: Result<String, Rejection>,
    pub(super) verdict: Result<Verdict, Rejection>,
    /// For each filter, whether the message passes, or why the filter or the call was rejected.
    pub(super) passes: Vec<Result<bool, Rejection>>,
}

impl TrialOutcome {
    /// Whether a call failed. A rejection by the plugin is an answer.
    pub(super) fn has_failure(&self) -> bool {
        let failed = |rejection: &Rejection| rejection.code == RejectionCode::Failed;
        self.verdict.as_ref().is_err_and(failed)
            || self.passes.iter().any(|passes| passes.as_ref().is_err_and(failed))
    }
}

impl Trial {
    pub(super) fn new(args: &TrialArgs) -> anyhow::Result<Self> {
        Self::load(args, &Engine::new()?, args.budget.budget())
    }

    /// A second instance that counts instructions. It is separate, so that the times and verdicts of the
    /// first are those of a node.
    pub(super) fn counting(args: &TrialArgs) -> anyhow::Result<Self> {
        let budget = args.budget.budget();
        let budget = Budget { call: MIN_COUNTING_TIME.max(budget.call), ..budget };
        with_default(&Dispatch::none(), || Self::load(args, &Engine::counting()?, budget))
    }

    fn load(args: &TrialArgs, engine: &Engine, budget: Budget) -> anyhow::Result<Self> {
        let bytes = super::versions::read_plugin(&args.file)?;
        let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
        let plugin = Plugin::load(engine, &name, &bytes, &args.config, budget)?;
        Ok(Self {
            governor: Governor::new(Arc::new(plugin), OnFailure::Deny),
            principal: Principal::new(&*args.who, "", &*args.tier),
            filters: args.subscriptions(),
            counts: args.counts.unwrap_or_default(),
            granted: HashMap::new(),
            times: BTreeMap::new(),
            spent: BTreeMap::new(),
        })
    }

    /// Makes a call, and records its time and instructions if the plugin has the hook.
    fn measure<T>(&mut self, hook: &'static str, call: impl FnOnce(&mut Governor) -> T) -> T {
        let before = self.governor.plugin().instructions();
        let began = Instant::now();
        let answer = call(&mut self.governor);
        let time = began.elapsed();
        let spent = self.governor.plugin().instructions() - before;
        let hooks = self.governor.plugin().info().hooks;
        let has_hook = match hook {
            "room" => hooks.room,
            "publish" => hooks.publish,
            "subscribe" => hooks.subscribe || hooks.deliver,
            _ => hooks.deliver,
        };
        if has_hook {
            self.times.entry(hook).or_default().push(time);
            self.spent.entry(hook).or_default().push(spent);
        }
        answer
    }

    /// Counts the instructions of the calls for a message. For the instance from [`Self::counting`]. Drops
    /// what the plugin logs, because the other instance has logged it already.
    pub(super) fn count_instructions(&mut self, message: &FeedMessage) -> Instructions {
        with_default(&Dispatch::none(), || self.process(message));
        self.times.clear();
        std::mem::take(&mut self.spent)
    }

    /// Makes all calls that a node would make for a message and its subscribers. The plugin's clock has the time
    /// at which the message was recorded.
    pub(super) fn process(&mut self, message: &FeedMessage) -> TrialOutcome {
        self.spent.clear();
        if let Some(time) = message.time {
            self.governor.plugin().drive_clock(time);
        }
        let principal = self.principal.clone();
        let canonical = self.measure("room", |governor| governor.validate(&principal.id, &message.room));
        let room = match canonical {
            Ok(canonical) => canonical.unwrap_or_else(|| message.room.clone()),
            Err(refusal) => {
                let (room, verdict) = (Err(refusal.clone()), Err(refusal));
                return TrialOutcome { room, verdict, passes: vec![] };
            }
        };
        let (event, data) = (message.event.as_deref().unwrap_or_default(), message.data.get());
        let request = PublishRequest::new(&principal, &room, event, data.as_bytes());
        let verdict = self.measure("publish", |governor| governor.check(&request));
        let stored = match &verdict {
            Ok(Verdict::Pass) => Some(data.as_bytes().to_vec()),
            Ok(Verdict::Replace(data)) => Some(data.clone()),
            Ok(Verdict::Discard) | Err(_) => None,
        };
        let passes = stored.map(|data| self.deliver(&room, event, &data)).unwrap_or_default();
        TrialOutcome { room: Ok(room), verdict, passes }
    }

    /// The first subscription that the plugin rejected in every room so far, and why.
    pub(super) fn rejected_subscription(&self) -> Option<(String, &Rejection)> {
        (0..self.filters.len()).find_map(|n| {
            let mut grants = self.granted.values().map(|grants| &grants[n]);
            let rejection = grants.next()?.as_ref().err()?;
            let subject = match self.filters[n] {
                Some(_) => format!("filter {}", n + 1),
                None => "the subscription".to_owned(),
            };
            grants.all(Result::is_err).then_some((subject, rejection))
        })
    }

    /// Evaluates all filters on a message. Subscribes with them first, once per room.
    fn deliver(&mut self, room: &str, event: &str, data: &[u8]) -> Vec<Result<bool, Rejection>> {
        if !self.granted.contains_key(room) {
            let (principal, filters) = (self.principal.clone(), self.filters.clone());
            let mut grants = vec![];
            for filter in &filters {
                let counts = self.counts;
                let grant = self
                    .measure("subscribe", |governor| {
                        governor.authorize(&principal, room, filter.as_deref(), counts)
                    })
                    .map(|grant| grant.filter);
                grants.push(grant);
            }
            self.granted.insert(room.to_owned(), grants);
        }
        let grants = self.granted[room].clone();
        let ids: Vec<_> = grants.iter().filter_map(|grant| *grant.as_ref().ok()?).collect();
        let mut bits = vec![];
        let called = match ids.is_empty() {
            true => Ok(()),
            false => self.measure("deliver", |governor| governor.matches(room, event, data, &ids, &mut bits)),
        };
        let mut position = 0;
        let mut next_bit = || {
            let (word, bit) = (position / 64, position % 64);
            position += 1;
            bits[word] >> bit & 1 == 1
        };
        let answer = |grant: Result<Option<FilterId>, Rejection>| match (grant?, &called) {
            (None, _) => Ok(true),
            (Some(_), Err(refusal)) => Err(refusal.clone()),
            (Some(_), Ok(())) => Ok(next_bit()),
        };
        grants.into_iter().map(answer).collect()
    }
}
