//! The call `GET /v1/plugins/{name}/record`: streams the calls of a plugin on this node as lines of JSON, for a
//! limited time. What a line contains is decided by `switchyard_plugin::RecordedCall`.

use super::{
    api::{Api, ApiError, Caller},
    query::QueryParameters,
};
use crate::{
    audit::{AuditAction, AuditEvent},
    hub::conflict,
};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use switchyard_plugin::Recording;
use switchyard_process::unit;
use switchyard_store::key::Scope;
use tokio::time::{Instant, sleep, sleep_until};

/// How long to record without `for`, and at most.
const DEFAULT_DURATION: Duration = Duration::from_secs(60);
const MAX_DURATION: Duration = Duration::from_secs(60 * 60);
/// How often it is checked, if no calls are made, whether the caller may still record.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A recording ends after this many calls or bytes.
const MAX_CALLS: u64 = 100_000;
const MAX_BYTES: usize = 256 << 20;

/// `?for=5m&data=true`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordQuery {
    #[serde(default, rename = "for", deserialize_with = "duration")]
    duration: Option<Duration>,
    /// Whether messages are recorded with their data.
    #[serde(default, deserialize_with = "flag")]
    data: bool,
}

impl QueryParameters for RecordQuery {}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(input)?;
    let duration = unit::parse_duration(&text).map_err(D::Error::custom)?;
    match duration <= MAX_DURATION && !duration.is_zero() {
        true => Ok(Some(duration)),
        false => Err(D::Error::custom(format!("expected more than 0 and at most 1h, got {text}"))),
    }
}

fn flag<'de, D: Deserializer<'de>>(input: D) -> Result<bool, D::Error> {
    match &*String::deserialize(input)? {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(D::Error::custom(format!("expected true or false, got '{other}'"))),
    }
}

/// Why a recording has ended, in its last line.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum EndReason {
    /// It has the length that was asked for.
    Time,
    /// It has the maximum number of calls.
    Calls,
    /// It has the maximum size.
    Bytes,
    /// Another version has become active.
    Version,
    /// The caller's key is gone, or its principal is banned.
    Refused,
    /// The node is stopping.
    Stopping,
}

/// Writes the lines of a recording, one after the other.
struct LineWriter {
    recording: Recording,
    api: Arc<Api>,
    /// The call is in progress while this exists.
    caller: Caller<RecordQuery>,
    deadline: Instant,
    calls: u64,
    bytes: usize,
}

/// Streams the calls of the active version.
pub(super) async fn record(
    State(api): State<Arc<Api>>,
    caller: Caller<RecordQuery>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin, "record plugins")?;
    let slot = api.rollout.slot(&name?.0)?;
    let name = slot.name();
    let plugin =
        slot.plugin().ok_or_else(|| conflict(format!("plugin '{name}' has no active version to record")))?;
    let RecordQuery { duration, data } = *caller.query()?;
    let duration = duration.unwrap_or(DEFAULT_DURATION);
    let recording = Recording::start(plugin, data, &api.rollout.copy_budget).ok_or_else(|| {
        conflict(format!("plugin '{name}' is being recorded on this node; try again when that has ended"))
    })?;
    let (info, config) = (recording.plugin().info(), recording.plugin().config_digest());
    let event = AuditEvent::new(caller.actor(), AuditAction::PluginRecord, &name).digest(&info.sha256);
    let event = event.detail("version", &*info.version).detail("config", config).detail("data", data);
    api.services.hub.audit.record(&event.detail("seconds", duration.as_secs()));
    let head = json!({ "recording": {
        "plugin": name, "package": info.package, "version": info.version, "sha256": info.sha256, "data": data,
    }});
    let deadline = Instant::now() + duration;
    let writer = LineWriter { recording, api, caller, deadline, calls: 0, bytes: 0 };
    let first = stream::once(async move { Ok(line(&head)) });
    let rest = stream::unfold(Some(writer), async |writer| {
        let mut writer = writer?;
        Some(match writer.next().await {
            Ok(line) => (Ok::<_, Infallible>(line), Some(writer)),
            Err(reason) => (Ok(writer.last_line(reason)), None),
        })
    });
    let body = Body::from_stream(first.chain(rest));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

impl LineWriter {
    async fn next(&mut self) -> Result<Bytes, EndReason> {
        if self.calls == MAX_CALLS {
            return Err(EndReason::Calls);
        }
        if self.bytes >= MAX_BYTES {
            return Err(EndReason::Bytes);
        }
        let call = loop {
            self.check_caller()?;
            tokio::select! {
                biased;
                () = self.api.stopping.cancelled() => return Err(EndReason::Stopping),
                () = sleep_until(self.deadline) => return Err(EndReason::Time),
                call = self.recording.next() => break call.ok_or(EndReason::Version)?,
                () = sleep(CHECK_INTERVAL) => {}
            }
        };
        // It may have waited for the call.
        self.check_caller()?;
        let line = line(&call);
        self.calls += 1;
        self.bytes += line.len();
        Ok(line)
    }

    fn check_caller(&self) -> Result<(), EndReason> {
        let key =
            self.caller.current_key(&self.api).and_then(|key| key.require(Scope::Admin, "record plugins"));
        key.map_err(|_| EndReason::Refused)
    }

    fn last_line(&self, reason: EndReason) -> Bytes {
        line(
            &json!({ "end": { "reason": reason, "calls": self.calls, "skipped": self.recording.skipped() } }),
        )
    }
}

fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("plain data");
    line.push(b'\n');
    line.into()
}
