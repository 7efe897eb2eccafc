//! A plugin on its author's desk: asked of messages as a shard would ask it, with the host's own code, and timed or
//! counted.

use super::budget::BudgetArgs;
use crate::publish::feed::{self, Item, Lines, Outgoing, Speed};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::{
    Budget, Counts, Engine, FilterId, Governor, OnFailure, Plugin, Principal, Rejection, Verdict,
};
use tracing::dispatcher::{Dispatch, with_default};

/// Time of a call that is counted: counting makes it slower, and it is not there to fail.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct TrialArgs {
    /// A core module or a component
    file: PathBuf,
    /// What `init` is given
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    #[command(flatten)]
    budget: BudgetArgs,
    /// The room; with --from, that of lines which name none
    #[arg(long, required_unless_present = "from")]
    room: Option<String>,
    /// The event; with --from, that of lines which name none
    #[arg(long)]
    event: Option<String>,
    /// Who publishes and subscribes
    #[arg(long, value_name = "PRINCIPAL", default_value = "author")]
    who: String,
    /// That principal's tier
    #[arg(long, default_value = "default")]
    tier: String,
    /// A subscriber's filter; may be given several times
    #[arg(long = "filter", value_name = "JSON")]
    filters: Vec<String>,
    /// The message: any JSON value
    #[arg(required_unless_present = "from", allow_negative_numbers = true)]
    data: Option<String>,
    /// Lines {"time":ms,"room":"…","event":"…","data":…}; - reads standard input
    #[arg(long, value_name = "FILE.ndjson", conflicts_with = "data")]
    from: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

impl TrialArgs {
    pub(crate) fn lines(&self) -> anyhow::Result<Lines> {
        if let Some(file) = &self.from {
            return Ok(feed::open(file, self.room.clone(), self.event.clone(), Speed::Max)?.0);
        }
        let data = self.data.as_deref().unwrap_or_default();
        let data: Box<RawValue> = serde_json::from_str(data).context("DATA is no JSON")?;
        let room = self.room.clone().expect("clap requires it");
        Ok(feed::single(Outgoing { line: None, time: None, room, event: self.event.clone(), data }))
    }

    pub(crate) fn filters(&self) -> usize {
        self.filters.len()
    }
}

/// The next message of a feed; a line that is none ends it.
pub(super) async fn next(lines: &mut Lines) -> anyhow::Result<Option<Outgoing>> {
    match lines.recv().await {
        None => Ok(None),
        Some(Item::Message(message)) => Ok(Some(message)),
        Some(Item::Wrong(line, why)) => bail!("line {line}: {why}"),
        Some(Item::Unreadable(why)) => bail!("{why}"),
    }
}

pub(super) struct Trial {
    governor: Governor,
    who: Principal,
    filters: Vec<String>,
    /// By room: each filter's number, where it was granted.
    granted: HashMap<String, Vec<Result<Option<FilterId>, Rejection>>>,
    pub times: BTreeMap<&'static str, Vec<Duration>>,
    /// Instructions of each call of the present message.
    spent: Instructions,
}

/// Of each call, by hook.
pub(super) type Instructions = BTreeMap<&'static str, Vec<u64>>;

/// What becomes of a message.
pub(super) struct Outcome {
    /// The room by the name that the plugin gives it.
    pub room: Result<String, Rejection>,
    pub verdict: Result<Verdict, Rejection>,
    /// Whether each filter lets it through; an error where it was not granted.
    pub passes: Vec<Result<bool, Rejection>>,
}

impl Trial {
    pub(super) fn new(args: &TrialArgs) -> anyhow::Result<Self> {
        Self::on(args, &Engine::new()?, args.budget.read())
    }

    /// A twin that counts instructions. It is beside the one that is timed, so that times and verdicts are a node's.
    pub(super) fn counting(args: &TrialArgs) -> anyhow::Result<Self> {
        let budget = args.budget.read();
        let budget = Budget { call: PATIENCE.max(budget.call), ..budget };
        with_default(&Dispatch::none(), || Self::on(args, &Engine::counting()?, budget))
    }

    fn on(args: &TrialArgs, engine: &Engine, budget: Budget) -> anyhow::Result<Self> {
        let config = serde_json::from_str(&args.config).context("--config is not JSON")?;
        for filter in &args.filters {
            let filter: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(filter);
            filter.context("--filter is no JSON object")?;
        }
        let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
        let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
        let plugin = Plugin::load(engine, &name, &bytes, &config, budget)?;
        Ok(Self {
            governor: Governor::new(Arc::new(plugin), OnFailure::Deny),
            who: Principal { id: args.who.clone(), tier: args.tier.clone(), tags: vec![] },
            filters: args.filters.clone(),
            granted: HashMap::new(),
            times: BTreeMap::new(),
            spent: BTreeMap::new(),
        })
    }

    fn timed<T>(&mut self, hook: &'static str, ask: impl FnOnce(&mut Governor) -> T) -> T {
        let before = self.governor.plugin().instructions();
        let began = Instant::now();
        let answer = ask(&mut self.governor);
        let time = began.elapsed();
        let spent = self.governor.plugin().instructions() - before;
        let hooks = self.governor.plugin().info().hooks;
        let is_there = match hook {
            "room" => hooks.room,
            "publish" => hooks.publish,
            "subscribe" => hooks.subscribe || hooks.deliver,
            _ => hooks.deliver,
        };
        if is_there {
            self.times.entry(hook).or_default().push(time);
            self.spent.entry(hook).or_default().push(spent);
        }
        answer
    }

    /// What the calls for a message take, asked of a counting twin. In silence: what the plugin logs, the other logged.
    pub(super) fn count(&mut self, message: &Outgoing) -> Instructions {
        with_default(&Dispatch::none(), || self.ask(message));
        self.times.clear();
        std::mem::take(&mut self.spent)
    }

    pub(super) fn ask(&mut self, message: &Outgoing) -> Outcome {
        self.spent.clear();
        let who = self.who.id.clone();
        let named = self.timed("room", |governor| governor.validate(&who, &message.room));
        let room = match named {
            Ok(canonical) => canonical.unwrap_or_else(|| message.room.clone()),
            Err(refusal) => {
                let (room, verdict) = (Err(refusal.clone()), Err(refusal));
                return Outcome { room, verdict, passes: vec![] };
            }
        };
        let (event, data) = (message.event.as_deref().unwrap_or_default(), message.data.get());
        let verdict = self.timed("publish", |governor| governor.check(&who, &room, event, data.as_bytes()));
        let stored = match &verdict {
            Ok(Verdict::Pass) => Some(data.as_bytes().to_vec()),
            Ok(Verdict::Replace(data)) => Some(data.clone()),
            Ok(Verdict::Discard) | Err(_) => None,
        };
        let passes = stored.map(|data| self.deliver(&room, event, &data)).unwrap_or_default();
        Outcome { room: Ok(room), verdict, passes }
    }

    fn deliver(&mut self, room: &str, event: &str, data: &[u8]) -> Vec<Result<bool, Rejection>> {
        if !self.granted.contains_key(room) {
            let (who, filters) = (self.who.clone(), self.filters.clone());
            let mut grants = vec![];
            for filter in &filters {
                let counts = Counts { of_connection: 0, of_principal: 0, in_room: 0 };
                let grant = self
                    .timed("subscribe", |governor| governor.authorize(&who, room, Some(filter), counts))
                    .map(|grant| grant.filter);
                grants.push(grant);
            }
            self.granted.insert(room.to_owned(), grants);
        }
        let grants = self.granted[room].clone();
        let ids: Vec<_> = grants.iter().filter_map(|grant| *grant.as_ref().ok()?).collect();
        let mut bits = vec![];
        let asked = match ids.is_empty() {
            true => Ok(()),
            false => self.timed("deliver", |governor| governor.matches(room, event, data, &ids, &mut bits)),
        };
        let mut position = 0;
        let mut bit = || {
            let (word, bit) = (position / 64, position % 64);
            position += 1;
            bits[word] >> bit & 1 == 1
        };
        let answer = |grant: Result<Option<FilterId>, Rejection>| match (grant?, &asked) {
            (None, _) => Ok(true),
            (Some(_), Err(refusal)) => Err(refusal.clone()),
            (Some(_), Ok(())) => Ok(bit()),
        };
        grants.into_iter().map(answer).collect()
    }
}
