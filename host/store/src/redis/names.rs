//! The names of keys and channels in Redis. Each begins with the configured prefix. Keys that belong together
//! have the same hash tag: all keys of a room that of the room, and all sessions of a principal that of its
//! inbox. Tags that begin with a slash belong to no room.

use crate::redis::{session_id::SessionId, site::Site};

#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    /// The end of each channel name. It contains the database, because channels belong to the whole server.
    live: String,
}

impl Names {
    /// The names for the first database.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), live: "live".to_owned() }
    }

    pub(super) fn of(site: &Site) -> Self {
        let names = Self::new(&site.prefix);
        match site.url.database() {
            0 => names,
            database => Self { live: format!("live:{database}"), ..names },
        }
    }

    fn key(&self, tag: &str, rest: &str) -> String {
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    /// String: the schema that the keys follow.
    pub(super) fn schema(&self) -> String {
        format!("{}:schema", self.prefix)
    }

    /// Hash: the epoch, the newest offset and the time of that message.
    pub(super) fn room(&self, room: &str) -> String {
        self.key(room, "room")
    }

    /// Stream: the messages that are held.
    pub(super) fn log(&self, room: &str) -> String {
        self.key(room, "log")
    }

    /// String: the position that an idempotency key was first used for.
    pub(super) fn once(&self, room: &str, (principal, key): (&str, &str)) -> String {
        self.key(room, &format!("once:{principal}:{key}"))
    }

    /// Sorted set, by name: principal and session of each member.
    pub(super) fn members(&self, room: &str) -> String {
        self.key(room, "members")
    }

    /// Hash: by session, the last write that added or removed it as a member and, after a removal, when that
    /// was.
    pub(super) fn fences(&self, room: &str) -> String {
        self.key(room, "fences")
    }

    /// Sorted set: when sessions were removed from the room, for as long as that is remembered.
    pub(super) fn removals(&self, room: &str) -> String {
        self.key(room, "removals")
    }

    /// Sorted set: the highest offset that each member has acknowledged in the room's epoch.
    pub(super) fn acks(&self, room: &str) -> String {
        self.key(room, "acks")
    }

    /// Sharded channel: a room's messages.
    pub(super) fn live(&self, room: &str) -> String {
        self.key(room, &self.live)
    }

    /// The room of a channel.
    pub(super) fn room_of<'a>(&self, channel: &'a str) -> Option<&'a str> {
        channel.strip_prefix(&self.prefix)?.strip_prefix(":{")?.strip_suffix(&*self.live)?.strip_suffix("}:")
    }

    /// Hash: the record of a session: its holder, and its rooms with positions and filters.
    pub(super) fn session(&self, principal: &str, id: SessionId) -> String {
        self.session_by_id(principal, &id.to_string())
    }

    pub(super) fn session_by_id(&self, principal: &str, id: &str) -> String {
        self.key(&format!("@{principal}"), &format!("session:{id}"))
    }

    /// Hash: how many connections a principal has, by node.
    pub(super) fn connections(&self, principal: &str) -> String {
        self.key(&format!("@{principal}"), "connections")
    }

    /// Sorted set: when the lease of each node expires. This and the following times are in cluster time.
    pub(super) fn leases(&self) -> String {
        self.key("/nodes", "leases")
    }

    /// Sorted set: dead nodes, and until when another node has claimed the cleanup.
    pub(super) fn dead(&self) -> String {
        self.key("/nodes", "dead")
    }

    /// Sorted set: when each session without a connection ends.
    pub(super) fn ends(&self) -> String {
        self.key("/nodes", "ends")
    }

    /// Hash: the cluster time, as the last node to renew its lease advanced it.
    pub(super) fn clock(&self) -> String {
        self.key("/nodes", "clock")
    }

    /// Set: what must be cleaned up when a node dies: principals with connections, and sessions with the
    /// connections that hold them.
    pub(super) fn owned(&self, node: &str) -> String {
        self.key(&format!("/node-{node}"), "estate")
    }

    /// List: connections of a node whose sessions were taken over by connections of other nodes.
    pub(super) fn takeovers(&self, node: &str) -> String {
        self.key(&format!("/node-{node}"), "takeovers")
    }

    /// Sorted set, by name: all rooms.
    pub(super) fn rooms(&self) -> String {
        self.key("/rooms", "names")
    }

    /// Sorted set: when each room is next checked, in cluster time, in case it has expired.
    pub(super) fn checks(&self) -> String {
        self.key("/rooms", "checks")
    }

    /// String: the node that last checked the whole list.
    pub(super) fn pruned(&self) -> String {
        self.key("/rooms", "pruned")
    }

    /// Hash: the API keys in Redis, by digest, and their revision.
    pub(super) fn keys(&self) -> String {
        self.key("/keys", "all")
    }

    /// Hash: bans and revocations by target, and their revision.
    pub(super) fn denials(&self) -> String {
        self.key("/denials", "all")
    }

    /// Hash: by plugin, its version history; and the revision of all of them.
    pub(super) fn plugins(&self) -> String {
        self.key("/plugins", "lineages")
    }

    /// String: the code of one version.
    pub(super) fn plugin_code(&self, plugin: &str, sha256: &str) -> String {
        self.key("/plugins", &format!("code:{plugin}:{sha256}"))
    }

    /// String: the code of a version that is being uploaded.
    pub(super) fn plugin_upload(&self, plugin: &str, sha256: &str) -> String {
        self.key("/plugins", &format!("upload:{plugin}:{sha256}"))
    }

    /// What belongs to the shared values of a plugin, in the order of the scripts. Hash: epoch, newest version, bytes,
    /// and up to which version deletions are forgotten. Hash: the values by key. Sorted sets by key: the version of
    /// each value, that of each deletion, and when each value expires.
    pub(super) fn shared_values(&self, plugin: &str) -> Vec<String> {
        let parts = ["state", "values", "versions", "deletions", "expiries"];
        parts.map(|part| self.key(&format!("/plugin-{plugin}"), part)).into()
    }

    /// Hash: which plugin governs which rooms, as JSON, and its revision.
    pub(super) fn governance(&self) -> String {
        self.key("/plugins", "governance")
    }

    /// Hash: by node, the report about its plugins and when it was written.
    pub(super) fn plugins_nodes(&self) -> String {
        self.key("/plugins", "nodes")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::RedisUrl, *};

    #[test]
    fn a_channel_leads_back_to_its_room() {
        let names = Names::new("sy");
        assert_eq!(names.live("dydx:eth-usd"), "sy:{dydx:eth-usd}:live");
        assert_eq!(names.room_of("sy:{dydx:eth-usd}:live"), Some("dydx:eth-usd"));
        assert_eq!(names.room_of("other:{a}:live"), None);
        assert_eq!(names.room_of("sy:{a}:live:3"), None);
    }

    #[test]
    fn each_database_has_channels_of_its_own() {
        let of = |url: &str| Names::of(&Site { url: RedisUrl::parse(url).unwrap(), prefix: "sy".into() });
        for (url, channel) in [
            ("redis://x", "sy:{a:b}:live"),
            ("redis://x/", "sy:{a:b}:live"),
            ("redis://x/0", "sy:{a:b}:live"),
            ("redis-cluster://x", "sy:{a:b}:live"),
            ("redis://x/3", "sy:{a:b}:live:3"),
            ("redis-sentinel://x/15?sentinelServiceName=main", "sy:{a:b}:live:15"),
        ] {
            let names = of(url);
            assert_eq!(names.live("a:b"), channel, "{url}");
            assert_eq!(names.room_of(channel), Some("a:b"));
            assert_eq!(names.room("a:b"), "sy:{a:b}:room", "keys are separate for each database anyway");
        }
        assert_eq!(of("redis://x/3").room_of("sy:{a}:live"), None);
        assert_eq!(of("redis://x/3").room_of("sy:{a}:live:13"), None);
    }
}
