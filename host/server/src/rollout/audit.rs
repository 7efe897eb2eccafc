//! The audit lines about the versions of plugins: who changed what, with the digests of code and configuration.
//! Lines about single calls are in the modules that make them.

use super::{activity::LoadSource, slot::ActiveVersion};
use switchyard_plugin::{Plugin, PluginConfig};
use switchyard_process::log::AUDIT_TARGET;

/// Writes the audit line of an activation.
pub(super) fn log_activation(plugin: &Plugin, source: LoadSource, by: Option<&str>) {
    let (info, config, how) = (plugin.info(), plugin.config_digest(), source.name());
    let (plugin, version, sha256) = (&info.name, &info.version, &info.sha256);
    tracing::info!(target: AUDIT_TARGET, %plugin, %version, %sha256, config, how, by, "version activated");
}

/// Writes the audit line of a version that was not activated.
pub(super) fn log_failed_load(
    config: &PluginConfig,
    sha256: &str,
    source: LoadSource,
    by: Option<&str>,
    reason: &str,
) {
    let (plugin, config, how) = (config.name(), config.digest(), source.name());
    tracing::error!(target: AUDIT_TARGET, %plugin, %sha256, %config, how, by, "version not loaded: {reason}");
}

/// Writes the audit line of an active version that was restarted with another configuration.
pub(super) fn log_config_change(before: Option<&ActiveVersion>, after: &Plugin) {
    let (info, config) = (after.info(), after.config_digest());
    let config_before = before.map(|before| before.plugin.config_digest());
    let (plugin, version, sha256) = (&info.name, &info.version, &info.sha256);
    tracing::info!(
        target: AUDIT_TARGET, %plugin, %version, %sha256, config, config_before, how = LoadSource::Config.name(),
        "configuration changed"
    );
}

/// Writes the audit line of an earlier version that an operator activated again. `from` is the SHA-256 of the one
/// that was active.
pub(super) fn log_rollback(from: Option<&str>, active: &Plugin, by: Option<&str>) {
    let (info, config, how) = (active.info(), active.config_digest(), LoadSource::Rollback.name());
    let (plugin, version, sha256) = (&info.name, &info.version, &info.sha256);
    tracing::info!(
        target: AUDIT_TARGET, %plugin, %version, %sha256, config, how, by, from, "version activated"
    );
}

/// Writes the audit line of a version that failed on probation.
pub(super) fn log_withdrawal(withdrawn: &Plugin, back_to: &ActiveVersion, reason: &str) {
    let (info, config) = (withdrawn.info(), withdrawn.config_digest());
    let (plugin, version, sha256) = (&info.name, &info.version, &info.sha256);
    let (back_to, back_to_config) = (back_to.sha256(), back_to.plugin.config_digest());
    tracing::error!(
        target: AUDIT_TARGET, %plugin, %version, %sha256, config, back_to, back_to_config,
        "version withdrawn: {reason}"
    );
}

/// Writes the audit line of a candidate that starts or ends.
pub(super) fn log_candidate(candidate: &Plugin, by: Option<&str>, what: &str) {
    let (info, config) = (candidate.info(), candidate.config_digest());
    let (plugin, version, sha256) = (&info.name, &info.version, &info.sha256);
    tracing::info!(target: AUDIT_TARGET, %plugin, %version, %sha256, config, by, "{what}");
}
