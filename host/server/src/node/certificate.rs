//! Reads the certificate again when it may have changed, and reports when it is valid. Does not notice that it has changed.

use super::watcher::FileReader;
use crate::{
    admin::Status,
    blocking::THREAD_RETRY_DELAY,
    listener::{Certificate, Tls, TlsConfig},
};
use std::sync::Arc;
use switchyard_process::file::UnusableFile;
use switchyard_protocol::unix_ms;
use tokio::sync::watch;

/// Reports when the certificate is valid, with a warning if it is not valid now.
pub(super) fn report(tls: &Tls, status: &Status) {
    let certificate = tls.validity();
    status.set_certificate(certificate);
    if let Some(problem) = certificate.problem((unix_ms() / 1000) as i64) {
        tracing::warn!("{problem}: clients reject it until it is replaced");
    }
}

/// Reads the certificate from each set of files that is sent. If the files cannot be read at the moment,
/// tries again later.
pub(super) async fn renew(
    tls: Arc<Tls>,
    reader: FileReader,
    mut requests: watch::Receiver<Option<TlsConfig>>,
    status: Arc<Status>,
) {
    let mut retry = false;
    loop {
        let is_retry = tokio::select! {
            changed = requests.changed() => {
                let Ok(()) = changed else { return };
                false
            }
            () = tokio::time::sleep(THREAD_RETRY_DELAY), if retry => true,
        };
        let Some(files) = requests.borrow_and_update().clone() else { continue };
        let read = reader.run(move || Certificate::read(&files)).await;
        let renewed =
            read.unwrap_or_else(|error| Err(error.into())).map(|certificate| tls.replace(certificate));
        retry = matches!(renewed, Err(UnusableFile::Temporary(_)));
        match &renewed {
            Ok(true) => {
                tracing::info!("the certificate was read again; it is {}", tls.validity());
                report(&tls, &status);
            }
            Ok(false) => {}
            // Logged at the first attempt only.
            Err(_) if retry && is_retry => {}
            Err(error) => tracing::error!("{error}; the certificate stays as it was"),
        }
        status.set_rejected("the certificate", renewed.err().map(|error| error.to_string()));
    }
}
