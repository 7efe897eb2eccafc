//! The calls `PUT /v1/plugins/{name}/slot` and `DELETE /v1/plugins/{name}`: adding, configuring and removing plugins
//! for all nodes. Does not decide whether that is possible: `rollout` does.

use super::{
    api::{Api, ApiError, Caller, json_response, to_json},
    body::UnreadBody,
    plugins::{self, NamePath},
    query::QueryParameters,
};
use crate::{
    audit::{Actor, AuditAction, AuditEvent},
    rollout::{SlotChange, SlotRemoval},
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use switchyard_process::file::without_bom;
use switchyard_protocol::{Refusal, room::RoomPattern};
use switchyard_store::{MAX_SETTINGS_BYTES, key::Scope};

/// `?shadow=true`, or the parameters of a [`RemovalQuery`]
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotQuery {
    /// Only run it as a candidate on this node.
    #[serde(default)]
    shadow: bool,
    /// Whether rooms may be left without a plugin and open.
    #[serde(default)]
    open: bool,
    /// Whether rooms that change their plugin lose their history.
    #[serde(default)]
    clear_history: bool,
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

impl QueryParameters for SlotQuery {}

/// `?open=true&clear_history=true&dry_run=true`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovalQuery {
    /// Whether rooms may be left without a plugin and open.
    #[serde(default)]
    open: bool,
    /// Whether rooms that change their plugin lose their history.
    #[serde(default)]
    clear_history: bool,
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
}

impl QueryParameters for RemovalQuery {}

/// Adds a plugin, or replaces its rooms and settings.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    caller: Caller<SlotQuery>,
    name: NamePath,
    body: UnreadBody,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin, "change plugins")?;
    let Path(name) = name?;
    let SlotQuery { shadow, open: opens_rooms, clear_history: clears_history, dry_run } = *caller.query()?;
    let body = body.read(&api, &caller, MAX_SETTINGS_BYTES).await?;
    let change = SlotChange { opens_rooms, clears_history, ..parse(name, &body, caller.actor())? };
    if dry_run {
        return Ok(json_response(to_json(api.rollout.preview_slot_change(change).await?)));
    }
    if shadow {
        return Ok(json_response(to_json(api.rollout.start_new_candidate(change).await?)));
    }
    let event = AuditEvent::new(caller.actor(), AuditAction::PluginConfigure, &change.name);
    let changed = api.rollout.change_slot(change).await;
    record_refusal(&api, event, &changed);
    let slot = changed?;
    Ok(json_response(to_json(plugins::describe(&api, &slot).await)))
}

/// Removes a plugin with its versions.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Caller<RemovalQuery>,
    name: NamePath,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin, "remove plugins")?;
    let Path(name) = name?;
    let RemovalQuery { open: opens_rooms, clear_history: clears_history, dry_run } = *caller.query()?;
    if dry_run {
        return Ok(json_response(to_json(api.rollout.preview_removal(&name).await?)));
    }
    // Code that was sent for a plugin that was not added after all.
    if api.rollout.slot(&name).is_err() && api.rollout.unstage(&name) {
        let answer = json!({"name": name, "state": "removed", "shared_values": 0, "shared_bytes": 0});
        return Ok(json_response(answer.to_string()));
    }
    let by = caller.actor();
    let removal = SlotRemoval { name: name.clone(), opens_rooms, clears_history, by };
    let event = AuditEvent::new(caller.actor(), AuditAction::PluginRemove, &name);
    let removed = api.rollout.remove_plugin(removal).await;
    record_refusal(&api, event, &removed);
    let removed = removed?;
    let (values, bytes) = (removed.values, removed.bytes);
    let answer = json!({"name": name, "state": "removed", "shared_values": values, "shared_bytes": bytes});
    Ok(json_response(answer.to_string()))
}

/// Writes the audit line of a change that was refused. Of one that was made, `rollout` does.
fn record_refusal<T>(api: &Api, event: AuditEvent, result: &Result<T, Refusal>) {
    if result.is_err() {
        api.services.hub.audit.record(&event.result(result));
    }
}

fn parse(name: String, body: &[u8], by: Actor) -> Result<SlotChange, Refusal> {
    let mut settings: Map<String, Value> = serde_json::from_slice(without_bom(body)).map_err(|error| {
        let example = r#"{"rooms":["dydx:*"],"config":{}}"#;
        Refusal::invalid(format!("the body is not a JSON object such as {example}: {error}"))
    })?;
    let none = || Refusal::invalid(r#"rooms is missing; expected a list of patterns, such as ["dydx:*"]"#);
    let rooms: Vec<String> =
        serde_json::from_value(settings.remove("rooms").ok_or_else(none)?).map_err(|error| {
            Refusal::invalid(format!("rooms: {error}; expected a list of patterns, such as [\"dydx:*\"]"))
        })?;
    let rooms = rooms.into_iter().map(|pattern| {
        RoomPattern::try_from(pattern).map_err(|error| Refusal::invalid(format!("rooms: {error}")))
    });
    let before = settings.remove("before").filter(|before| !before.is_null());
    let before = before.map(|before| match before {
        Value::String(name) => Ok(name),
        other => Err(Refusal::invalid(format!("before: expected the name of a plugin, got {other}"))),
    });
    let revision = settings.remove("revision").filter(|revision| !revision.is_null());
    let revision = revision.map(|revision| {
        let wrong =
            || Refusal::invalid(format!("revision: expected the number that GET shows, got {revision}"));
        revision.as_u64().ok_or_else(wrong)
    });
    Ok(SlotChange {
        name,
        rooms: rooms.collect::<Result<_, _>>()?,
        before: before.transpose()?,
        settings,
        revision: revision.transpose()?,
        opens_rooms: false,
        clears_history: false,
        by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> Result<SlotChange, String> {
        parse("p".to_owned(), body.as_bytes(), Actor::Node).map_err(|refusal| refusal.message)
    }

    #[test]
    fn a_slot_has_rooms_and_the_settings_of_the_file() {
        let slot =
            parsed(r#"{"rooms":["a:*","b"],"before":"q","revision":7,"budget":{"call":"2ms"}}"#).unwrap();
        assert_eq!(slot.rooms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:*", "b"]);
        assert_eq!((slot.before.as_deref(), slot.revision), (Some("q"), Some(7)));
        assert_eq!(Value::from(slot.settings), json!({"budget": {"call": "2ms"}}));
        let slot = parsed(r#"{"rooms":[],"before":null,"revision":null}"#).unwrap();
        assert_eq!((slot.before, slot.revision), (None, None));
    }

    #[test]
    fn mistakes_name_the_key_and_what_is_right() {
        for (body, expected) in [
            ("[]", "the body is not a JSON object"),
            ("{}", "rooms is missing; expected a list of patterns"),
            (r#"{"rooms":"a"}"#, "rooms: invalid type"),
            (r#"{"rooms":["a b"]}"#, "rooms: "),
            (r#"{"rooms":[],"before":1}"#, "before: expected the name of a plugin, got 1"),
            (r#"{"rooms":[],"revision":"x"}"#, "revision: expected the number"),
        ] {
            let error = parsed(body).err().unwrap();
            assert!(error.starts_with(expected), "{body}: {error}");
        }
    }
}
