//! A node with plugins: its configuration, and the status of its plugins.

use serde_json::Value;
use switchyard_tests::{Node, guest};

/// One principal has all the connections. They are silent, so heartbeats are rare.
const ROOM_FOR_ALL: &str = "\
[session]
heartbeat = { interval = \"10m\", timeout = \"10s\" }
[tier.default]
connections = 20000
";

pub struct Plugin<'a> {
    pub name: &'a str,
    /// The name of the guest.
    pub file: &'a str,
    pub rooms: &'a str,
    /// A table of TOML.
    pub config: &'a str,
}

impl Plugin<'_> {
    fn table(&self) -> String {
        let (Self { name, rooms, config, .. }, file) = (self, guest(self.file));
        let file = file.display();
        format!(
            "[[plugin]]\nname = \"{name}\"\nfile = \"{file}\"\nrooms = [\"{rooms}\"]\nconfig = {config}\n"
        )
    }
}

/// The well-behaved plugin.
pub fn stamp<'a>(rooms: &'a str) -> Plugin<'a> {
    Plugin { name: "stamp", file: "stamp", rooms, config: "{}" }
}

pub async fn node(plugins: &[Plugin<'_>]) -> Node {
    node_with(plugins, "").await
}

/// Starts a node with additional tables of TOML.
pub async fn node_with(plugins: &[Plugin<'_>], more: &str) -> Node {
    let tables: String = plugins.iter().map(Plugin::table).collect();
    Node::start("memory", &format!("{ROOM_FOR_ALL}{tables}{more}")).await
}

/// The status of a plugin in `/v1/plugins`.
pub async fn status(node: &Node, name: &str) -> Value {
    let all = node.get("/v1/plugins").await;
    let mut plugins = all["plugins"].as_array().into_iter().flatten();
    plugins.find(|plugin| plugin["name"] == name).unwrap_or_else(|| panic!("no '{name}' in {all}")).clone()
}

/// The number of calls of a contract function, and the nanoseconds spent in them.
pub fn calls(status: &Value, function: &str) -> (u64, u64) {
    let calls = &status["calls"][function];
    (calls[0].as_u64().unwrap_or(0), calls[1].as_u64().unwrap_or(0))
}
