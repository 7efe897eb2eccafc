//! The scripts that write the versions of plugins and their code. What the versions mean is in `plugins`.

use crate::{
    Unavailable, VersionHistory,
    redis::{arguments, link::Link, names::Names, replies, revision},
};
use bytes::Bytes;
use fred::types::Value;
use std::time::Duration;

script!(ACTIVATE_VERSION = "activate_version");
script!(RESTORE_VERSIONS = "restore_versions");
script!(UPLOAD_CODE = "upload_code");
script!(FORGET_VERSIONS = "forget_versions");

/// How long Redis keeps code that is being uploaded, after its last piece.
const UPLOAD_TTL: Duration = Duration::from_secs(60);

/// What the scripts reply when the uploaded code is not there, or not whole.
const MISSING_CODE: u64 = 2;

pub(crate) enum VersionReply {
    Written,
    /// Another change came before, and nothing was written.
    Outdated,
    /// Redis no longer has the uploaded code, and nothing was written.
    MissingCode,
}

/// Code that was uploaded.
pub(crate) struct Uploaded<'a> {
    pub sha256: &'a str,
    pub size: usize,
}

fn to_json(history: &VersionHistory) -> String {
    serde_json::to_string(history).expect("plain data")
}

/// Appends a piece to the code that is being uploaded, if that has `before` bytes. Returns how many bytes
/// there are now.
pub(crate) async fn upload(
    link: &Link,
    names: &Names,
    plugin: &str,
    sha256: &str,
    before: usize,
    piece: Bytes,
) -> Result<usize, Unavailable> {
    let arguments =
        vec![arguments::integer(before as u64), Value::Bytes(piece), arguments::millis(UPLOAD_TTL)];
    let size = link.run(&UPLOAD_CODE, vec![names.plugin_upload(plugin, sha256)], arguments).await?;
    Ok(replies::number(&size)? as usize)
}

/// Deletes the versions of a plugin and their code if these are the stored ones. Returns whether they were.
pub(crate) async fn forget_versions(
    link: &Link,
    names: &Names,
    plugin: &str,
    history: &VersionHistory,
) -> Result<bool, Unavailable> {
    let codes = history.versions.iter().map(|release| names.plugin_code(plugin, &release.sha256));
    let keys = [names.plugins()].into_iter().chain(codes).collect();
    let arguments = vec![plugin.into(), arguments::integer(history.generation), revision::new_epoch().into()];
    Ok(replies::number(&link.run(&FORGET_VERSIONS, keys, arguments).await?)? == 1)
}

/// Writes the versions of a plugin, which must directly succeed the stored ones. `size` is that of the
/// uploaded code of the active version, or 0 if none was uploaded; `dropped` are digests whose code is
/// removed.
pub(crate) async fn write_versions(
    link: &Link,
    names: &Names,
    plugin: &str,
    history: &VersionHistory,
    size: usize,
    dropped: &[String],
) -> Result<VersionReply, Unavailable> {
    let code = |sha256: &str| names.plugin_code(plugin, sha256);
    let mut keys =
        vec![names.plugins(), code(&history.current), names.plugin_upload(plugin, &history.current)];
    keys.extend(dropped.iter().map(|sha256| code(sha256)));
    let arguments = vec![
        plugin.into(),
        arguments::integer(history.generation - 1),
        to_json(history).into(),
        arguments::integer(size as u64),
        revision::new_epoch().into(),
    ];
    Ok(match replies::number(&link.run(&ACTIVATE_VERSION, keys, arguments).await?)? {
        MISSING_CODE => VersionReply::MissingCode,
        1 => VersionReply::Written,
        _ => VersionReply::Outdated,
    })
}

/// Restores a plugin's versions if the stored ones are older, and its code if it is missing.
pub(crate) async fn restore_versions(
    link: &Link,
    names: &Names,
    plugin: &str,
    history: &VersionHistory,
    code: Option<Uploaded<'_>>,
) -> Result<VersionReply, Unavailable> {
    let (mut keys, generation) = (vec![names.plugins()], arguments::integer(history.generation));
    let mut arguments =
        vec![plugin.into(), generation, to_json(history).into(), revision::new_epoch().into()];
    if let Some(Uploaded { sha256, size }) = code {
        keys.extend([names.plugin_code(plugin, sha256), names.plugin_upload(plugin, sha256)]);
        arguments.push(arguments::integer(size as u64));
    }
    Ok(match replies::number(&link.run(&RESTORE_VERSIONS, keys, arguments).await?)? {
        MISSING_CODE => VersionReply::MissingCode,
        _ => VersionReply::Written,
    })
}
