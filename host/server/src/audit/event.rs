//! One audit line: what its fields are, and how long it may be. Writes it nowhere.

use serde::Serialize;
use serde_json::{Map, Value};
use std::{net::IpAddr, sync::Arc, time::SystemTime};
use switchyard_process::escape::Escaped;
use switchyard_protocol::Refusal;

/// Maximum length of a line in bytes. Longer ones would be cut in the log.
const MAX_LINE_BYTES: usize = 4000;
/// What is left of a target that is too long, in characters.
const MAX_TARGET_CHARS: usize = 200;

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// Whoever called the HTTP API.
    Caller {
        /// The id of the key.
        key: Arc<str>,
        principal: Arc<str>,
        from: Option<IpAddr>,
    },
    /// A file that has changed.
    Config,
    /// The signal SIGHUP.
    Signal,
    /// Another node, or a command, through the store. The principal is known if the store names it.
    Store(Option<Arc<str>>),
    /// This node.
    Node,
}

impl Actor {
    /// The principal that makes the change.
    pub(crate) fn principal(&self) -> Option<&Arc<str>> {
        match self {
            Self::Caller { principal, .. } => Some(principal),
            Self::Store(principal) => principal.as_ref(),
            Self::Config | Self::Signal | Self::Node => None,
        }
    }

    /// The name of the principal, or `-`.
    pub(crate) fn principal_name(&self) -> &str {
        self.principal().map_or("-", |principal| principal)
    }

    fn name(&self) -> &str {
        match self {
            Self::Caller { key, .. } => key,
            Self::Config => "config",
            Self::Signal => "signal",
            Self::Store(_) => "store",
            Self::Node => "node",
        }
    }
}

/// Declares the actions with their names, which docs/operator.md explains.
macro_rules! actions {
    ($($action:ident = $name:literal,)*) => {
        /// What is changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum AuditAction {
            $($action,)*
        }

        impl AuditAction {
            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)*
                }
            }

            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$action,)*];
        }
    };
}

actions! {
    KeyAdd = "key.add",
    KeyChange = "key.change",
    KeyRemove = "key.remove",
    TokenRevoke = "token.revoke",
    BanPrincipal = "ban.principal",
    UnbanPrincipal = "unban.principal",
    BanAddress = "ban.address",
    UnbanAddress = "unban.address",
    ConnectionClose = "connection.close",
    MessagePublish = "message.publish",
    ConfigReload = "config.reload",
    HistoryClear = "history.clear",
    PluginAdd = "plugin.add",
    PluginConfigure = "plugin.configure",
    PluginRemove = "plugin.remove",
    PluginStage = "plugin.stage",
    PluginActivate = "plugin.activate",
    PluginRollback = "plugin.rollback",
    PluginWithdraw = "plugin.withdraw",
    PluginRecord = "plugin.record",
    CandidateStart = "candidate.start",
    CandidateDrop = "candidate.drop",
}

/// One change, or an attempt.
pub(crate) struct AuditEvent {
    by: Actor,
    action: AuditAction,
    target: String,
    digest: Option<String>,
    result: &'static str,
    details: Map<String, Value>,
}

/// The fields of a line, in this order.
#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    action: &'static str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    result: &'static str,
    #[serde(flatten)]
    details: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The result of what has succeeded.
const OK: &str = "ok";

impl AuditEvent {
    pub(crate) fn new(by: Actor, action: AuditAction, target: impl ToString) -> Self {
        let (target, digest, result, details) = (target.to_string(), None, OK, Map::new());
        Self { by, action, target, digest, result, details }
    }

    /// With the digest of what was put into effect.
    #[must_use]
    pub(crate) fn digest(mut self, digest: impl ToString) -> Self {
        self.digest = Some(digest.to_string());
        self
    }

    /// With one more field, which must not have the name of a field that all lines have.
    #[must_use]
    pub(crate) fn detail(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// With the result, which without this is that it succeeded.
    #[must_use]
    pub(crate) fn result<T>(self, result: &Result<T, Refusal>) -> Self {
        match result {
            Ok(_) => self,
            Err(refusal) => {
                Self { result: refusal.code.as_str(), ..self }.detail("reason", &*refusal.message)
            }
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.result != OK
    }

    /// The line, without a line break. One that is too long lacks its details.
    pub(super) fn line(&self) -> String {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let from = match &self.by {
            Actor::Caller { from, .. } => *from,
            _ => None,
        };
        let whole = AuditLine {
            time,
            by: self.by.name(),
            principal: self.by.principal().map(|principal| &**principal),
            from,
            action: self.action.as_str(),
            target: &self.target,
            digest: self.digest.as_deref(),
            result: self.result,
            details: Some(&self.details),
            truncated: false,
        };
        // A terminal must not obey what somebody has made a part of a name.
        let text =
            |line: &AuditLine<'_>| Escaped(serde_json::to_string(line).expect("plain data")).to_string();
        let line = text(&whole);
        if line.len() <= MAX_LINE_BYTES {
            return line;
        }
        let end = self.target.char_indices().nth(MAX_TARGET_CHARS).map_or(self.target.len(), |(end, _)| end);
        text(&AuditLine { target: &self.target[..end], details: None, truncated: true, ..whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;
    use switchyard_protocol::ErrorCode;

    #[test]
    fn a_line_has_nothing_that_a_terminal_obeys() {
        let event = AuditEvent::new(Actor::Config, AuditAction::BanPrincipal, "a\u{9b}31m\u{202e}b");
        let line = event.line();
        assert!(line.contains(r"a\u009b31m\u202eb"), "{line}");
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["target"], "a\u{9b}31m\u{202e}b");
    }

    fn parsed(event: &AuditEvent) -> Value {
        let mut line: Value = serde_json::from_str(&event.line()).unwrap();
        let time = line.as_object_mut().unwrap().remove("time").unwrap();
        assert_eq!(time.as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
        line
    }

    fn caller() -> Actor {
        Actor::Caller { key: "k".into(), principal: "acme".into(), from: Some([192, 0, 2, 1].into()) }
    }

    #[test]
    fn a_line_says_who_did_what_from_where_and_with_which_result() {
        let event = AuditEvent::new(caller(), AuditAction::BanPrincipal, "bob").detail("until", 7);
        assert_eq!(
            parsed(&event),
            json!({
                "by": "k", "principal": "acme", "from": "192.0.2.1", "action": "ban.principal", "target": "bob",
                "result": "ok", "until": 7,
            })
        );
        let refused: Result<(), _> = Err(Refusal::new(ErrorCode::Conflict, "no"));
        let event =
            AuditEvent::new(Actor::Config, AuditAction::ConfigReload, "a.toml").digest("ab").result(&refused);
        assert_eq!(
            parsed(&event),
            json!({
                "by": "config", "action": "config.reload", "target": "a.toml", "digest": "ab", "result": "conflict",
                "reason": "no",
            })
        );
        assert!(event.line().starts_with("{\"time\":\"2"), "{}", event.line());
    }

    #[test]
    fn a_line_has_a_maximum_length_and_no_line_break() {
        let event =
            AuditEvent::new(caller(), AuditAction::PluginAdd, "p\n").detail("rooms", "x".repeat(9000));
        let line = event.line();
        assert!(line.len() < MAX_LINE_BYTES && !line.contains('\n'), "{line}");
        assert_eq!(parsed(&event)["truncated"], true);
        let event = AuditEvent::new(caller(), AuditAction::PluginAdd, "ä".repeat(9000));
        assert_eq!(parsed(&event)["target"], "ä".repeat(MAX_TARGET_CHARS));
    }

    #[test]
    fn every_action_has_a_name_of_its_own() {
        let names: BTreeSet<_> = AuditAction::ALL.iter().map(|action| action.as_str()).collect();
        assert_eq!(names.len(), AuditAction::ALL.len());
        let manual = include_str!("../../../../docs/operator.md");
        for name in names {
            assert!(manual.contains(&format!("| `{name}` |")), "docs/operator.md does not explain {name}");
        }
    }
}
