//! The audit lines about the versions of plugins, with the digests of code and configuration. Lines about single calls
//! are in the modules that make them.

use super::{activity::LoadSource, slot::ActiveVersion};
use crate::audit::{Actor, Audit, AuditAction, AuditEvent};
use switchyard_plugin::{Plugin, PluginConfig};
use switchyard_protocol::Refusal;

/// A line about a version. Its digest is that of the code.
fn event(by: &Actor, action: AuditAction, plugin: &Plugin) -> AuditEvent {
    let info = plugin.info();
    let event = AuditEvent::new(by.clone(), action, &info.name).digest(&info.sha256);
    event.detail("version", &*info.version).detail("config", plugin.config_digest())
}

/// Writes the audit line of an activation.
pub(super) fn log_activation(audit: &Audit, plugin: &Plugin, source: LoadSource, by: &Actor) {
    audit.record(&event(by, AuditAction::PluginActivate, plugin).detail("how", source.name()));
}

/// Writes the audit line of a version that was not activated.
pub(super) fn log_failed_load(
    audit: &Audit,
    config: &PluginConfig,
    sha256: &str,
    source: LoadSource,
    by: &Actor,
    refusal: &Refusal,
) {
    let action = match source {
        LoadSource::Config => AuditAction::PluginConfigure,
        LoadSource::Rollback => AuditAction::PluginRollback,
        LoadSource::Shadow => AuditAction::CandidateStart,
        _ => AuditAction::PluginActivate,
    };
    let event = AuditEvent::new(by.clone(), action, config.name()).digest(sha256);
    let event = event.detail("config", config.digest()).detail("how", source.name());
    audit.record(&event.result(&Err::<(), _>(refusal.clone())));
}

/// Writes the audit line of an active version that was restarted with another configuration.
pub(super) fn log_config_change(audit: &Audit, before: Option<&ActiveVersion>, after: &Plugin) {
    let config_before = before.map(|before| before.plugin.config_digest());
    let event = event(&Actor::Config, AuditAction::PluginConfigure, after);
    audit.record(&event.detail("config_before", config_before));
}

/// Writes the audit line of an earlier version that an operator activated again. `from` is the SHA-256 of the one
/// that was active.
pub(super) fn log_rollback(audit: &Audit, from: Option<&str>, active: &Plugin, by: &Actor) {
    audit.record(&event(by, AuditAction::PluginRollback, active).detail("before", from));
}

/// Writes the audit line of a version that failed on probation.
pub(super) fn log_withdrawal(audit: &Audit, withdrawn: &Plugin, back_to: &ActiveVersion, reason: &str) {
    let event = event(&Actor::Node, AuditAction::PluginWithdraw, withdrawn).detail("reason", reason);
    let event = event.detail("back_to", back_to.sha256());
    audit.record(&event.detail("back_to_config", back_to.plugin.config_digest()));
}

/// Writes the audit line of a candidate that starts or ends.
pub(super) fn log_candidate(audit: &Audit, action: AuditAction, candidate: &Plugin, by: &Actor) {
    audit.record(&event(by, action, candidate));
}
