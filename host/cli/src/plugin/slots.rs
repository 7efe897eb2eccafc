//! The commands that add, configure and remove plugins of running nodes, for all nodes that share a store.

use super::versions::{path, print_change, read_plugin, text_of};
use crate::{
    admin_client::{AdminArgs, AdminCall, AdminClient},
    count::counted,
    json_argument::parse_config,
    output::{InvalidArguments, OutputError, note, print_line},
};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use switchyard_plugin::{read_signature, signature_file};

#[derive(Args)]
pub(crate) struct AddArgs {
    /// The name of the new plugin
    name: String,
    /// Its first version: a WebAssembly core module or a component. If FILE.sig exists, it is sent as its
    /// signature
    file: PathBuf,
    #[command(flatten)]
    slot: SlotArgs,
    /// Do not add it; run it as a candidate on the node that is asked, for `plugin diff`. Its rooms stay as they are
    #[arg(long, conflicts_with_all = ["open", "clear_history", "dry_run"])]
    shadow: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub(crate) struct ConfigureArgs {
    /// The name of a plugin that was added with `plugin add`
    name: String,
    #[command(flatten)]
    slot: SlotArgs,
    /// Let it come last again, instead of before another plugin
    #[arg(long, conflicts_with = "before")]
    last: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub(crate) struct RemoveArgs {
    /// The name of the plugin
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The settings of a plugin. Those that are not given keep their values, or have their defaults.
#[derive(Args)]
struct SlotArgs {
    /// The rooms that it governs, such as 'dydx:*,trades'
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    rooms: Option<Vec<String>>,
    /// The plugin that it precedes: of two plugins with matching patterns, the first one governs a room
    #[arg(long, value_name = "PLUGIN")]
    before: Option<String>,
    /// Its own settings, a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_config)]
    config: Option<Value>,
    /// What a failed call is treated as
    #[arg(long, value_name = "allow|deny")]
    on_failure: Option<String>,
    /// Time for one call, such as 10ms
    #[arg(long, value_name = "TIME")]
    budget_call: Option<String>,
    /// Memory of one instance, such as 16MiB
    #[arg(long, value_name = "SIZE")]
    budget_memory: Option<String>,
    /// Number of calls after which an instance is replaced
    #[arg(long, value_name = "COUNT")]
    budget_calls: Option<u64>,
    /// Memory of its state, such as 4MiB
    #[arg(long, value_name = "SIZE")]
    budget_state: Option<String>,
    /// On how many cores its rooms are spread at most
    #[arg(long, value_name = "COUNT")]
    budget_instances: Option<u64>,
    /// Whether the values of its state stay on each node or are shared by all nodes
    #[arg(long, value_name = "node|shared")]
    state: Option<String>,
    /// How long a new version is watched, and rolled back if it fails
    #[arg(long, value_name = "TIME")]
    probation: Option<String>,
    /// The SHA-256 that every version must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// A header of a client's upgrade that its connect hook sees; may be repeated
    #[arg(long = "header", value_name = "NAME")]
    headers: Option<Vec<String>>,
}

#[derive(Args)]
struct ChangeArgs {
    /// Only show what would change on the node that is asked
    #[arg(long)]
    dry_run: bool,
    /// Allow that rooms are left without a plugin and open to everybody
    #[arg(long)]
    open: bool,
    /// Empty the history of the rooms that change their plugin; members receive a gap
    #[arg(long)]
    clear_history: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

impl SlotArgs {
    /// Puts the values that were given into a slot, in JSON.
    fn apply(&self, slot: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                slot.insert(key.to_owned(), value);
            }
        };
        set("rooms", self.rooms.as_ref().map(|rooms| json!(rooms)));
        set("before", self.before.as_ref().map(|before| json!(before)));
        set("config", self.config.as_ref().map(|config| json!(config)));
        set("on_failure", self.on_failure.as_ref().map(|outcome| json!(outcome)));
        set("state", self.state.as_ref().map(|state| json!(state)));
        set("probation", self.probation.as_ref().map(|time| json!(time)));
        set("sha256", self.sha256.as_ref().map(|digest| json!(digest)));
        set("headers", self.headers.as_ref().map(|headers| json!(headers)));
        let budgets = [
            ("call", self.budget_call.as_ref().map(|call| json!(call))),
            ("memory", self.budget_memory.as_ref().map(|memory| json!(memory))),
            ("calls", self.budget_calls.map(|calls| json!(calls))),
            ("state", self.budget_state.as_ref().map(|state| json!(state))),
            ("instances", self.budget_instances.map(|instances| json!(instances))),
        ];
        for (key, value) in budgets {
            let Some(value) = value else { continue };
            let budget = slot.entry("budget").or_insert_with(|| json!({}));
            budget[key] = value;
        }
    }
}

pub(super) async fn add(args: AddArgs) -> anyhow::Result<()> {
    let AddArgs { name, file, slot, shadow, change } = args;
    if slot.rooms.is_none() {
        let message = format!(
            "--rooms is missing: which rooms will plugin '{name}' govern? For example --rooms 'dydx:*,trades'"
        );
        return Err(InvalidArguments(message).into());
    }
    let admin = AdminClient::new(&change.admin)?;
    let body = read_plugin(&file)?;
    let signature_file = signature_file(&file);
    let signature = read_signature(&signature_file).with_context(|| signature_file.display().to_string())?;
    let signature = signature.as_deref().map(str::trim);
    let plugins = admin.call("GET", "/v1/plugins").await?;
    let mut names =
        plugins["plugins"].as_array().into_iter().flatten().map(|plugin| text_of(&plugin["name"]));
    if names.any(|known| known == name) {
        bail!(
            "plugin '{name}' is there already: use `plugin configure {name}` to change its rooms and settings, and \
             `plugin load {name} FILE` for another version"
        );
    }
    admin.deploy(AdminCall { method: "PUT", path: &path(&name, ""), signature, body }).await?;
    let mut body = Map::new();
    slot.apply(&mut body);
    if shadow {
        let (path, body) = (path(&name, "/slot?shadow=true"), serde_json::to_vec(&body)?);
        let call = AdminCall { method: "PUT", path: &path, signature: None, body };
        let candidate = admin.deploy(call).await?;
        let text = format!("runs as a candidate; see switchyard plugin diff {name}");
        return print_change(&change.admin, &candidate, &text);
    }
    put(&admin, &change, &name, &body).await
}

pub(super) async fn configure(args: ConfigureArgs) -> anyhow::Result<()> {
    let ConfigureArgs { name, slot, last, change } = args;
    let admin = AdminClient::new(&change.admin)?;
    let plugin = admin.call("GET", &path(&name, "")).await?;
    let Some(stored) = plugin["slot"].as_object() else {
        bail!(
            "plugin '{name}' is in the configuration file of that node: change it there, and reload the configuration"
        );
    };
    let mut body = stored["settings"].as_object().cloned().unwrap_or_default();
    for key in ["rooms", "before", "revision"] {
        body.extend(stored.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    slot.apply(&mut body);
    if last {
        body.remove("before");
    }
    put(&admin, &change, &name, &body).await
}

pub(super) async fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    let RemoveArgs { name, change } = args;
    let admin = AdminClient::new(&change.admin)?;
    let path = format!("{}{}", path(&name, ""), change.query());
    let call = AdminCall { method: "DELETE", path: &path, signature: None, body: vec![] };
    let answer = admin.deploy(call).await?;
    match change.dry_run {
        true => print_preview(&change.admin, &answer),
        false if change.admin.json => Ok(print_line!("{answer}")?),
        false => {
            let values = counted(answer["shared_values"].as_u64().unwrap_or_default(), "shared value");
            Ok(print_line!("{name}  removed, with its versions and its state ({values})")?)
        }
    }
}

async fn put(
    admin: &AdminClient,
    change: &ChangeArgs,
    name: &str,
    body: &Map<String, Value>,
) -> anyhow::Result<()> {
    let path = format!("{}{}", path(name, "/slot"), change.query());
    let body = serde_json::to_vec(body)?;
    let answer = admin.deploy(AdminCall { method: "PUT", path: &path, signature: None, body }).await?;
    match change.dry_run {
        true => print_preview(&change.admin, &answer),
        false => super::versions::finish_activation(admin, &change.admin, name, answer).await,
    }
}

impl ChangeArgs {
    fn query(&self) -> String {
        let flags = [("dry_run", self.dry_run), ("open", self.open), ("clear_history", self.clear_history)];
        let given: Vec<_> =
            flags.iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| format!("{flag}=true")).collect();
        if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
    }
}

/// Prints what a change would do on the node that was asked.
pub(crate) fn print_preview(args: &AdminArgs, preview: &Value) -> anyhow::Result<()> {
    if args.json {
        print_line!("{preview}")?;
        return Ok(());
    }
    print_preview_text(preview)?;
    Ok(())
}

fn print_preview_text(preview: &Value) -> Result<(), OutputError> {
    let count = |key: &str| preview[key].as_u64().unwrap_or_default();
    let list = |key: &str| preview[key].as_array().cloned().unwrap_or_default();
    let ungoverned: Vec<_> = list("ungoverned").iter().map(text_of).collect();
    if !ungoverned.is_empty() {
        print_line!("without a plugin: {}", ungoverned.join(" "))?;
    }
    for room in list("rooms") {
        let plugin = |key: &str| room[key].as_str().unwrap_or("no plugin").to_owned();
        let members = counted(room["members"].as_u64().unwrap_or_default(), "member");
        let (name, from, to, removed) =
            (text_of(&room["room"]), plugin("from"), plugin("to"), &room["removed"]);
        let change = if from == to { format!("stays with {to}") } else { format!("{from} -> {to}") };
        print_line!("{name}  {change}  {members}, {removed} removed")?;
    }
    let listed = list("rooms").len() as u64;
    if count("room_count") > listed {
        print_line!("and {} more", counted(count("room_count") - listed, "room"))?;
    }
    for member in list("refused") {
        let filter =
            member["filter"].as_str().map(|filter| format!(" with filter {filter}")).unwrap_or_default();
        let (principal, room) = (text_of(&member["principal"]), text_of(&member["room"]));
        print_line!("  {principal} leaves {room}{filter}: {}", text_of(&member["error"]["message"]))?;
    }
    let (members, rooms) = (counted(count("members"), "member"), counted(count("room_count"), "room"));
    print_line!(
        "{members} of {rooms} on {}; {} would be removed",
        text_of(&preview["host"]),
        count("removed")
    )?;
    if preview["complete"] == false {
        note(format_args!("there are too many members to judge all of them, so more may be removed"));
    }
    note(format_args!("nothing was changed; members on other nodes are not counted"));
    Ok(())
}
