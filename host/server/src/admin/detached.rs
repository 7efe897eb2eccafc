//! Carries out what a call decided to its end, also if the caller goes away meanwhile: it may have taken effect by then,
//! and the audit log has to say so. Knows no calls.

use crate::hub::stopping;
use switchyard_protocol::Refusal;

/// Runs `change` on a task of its own, and waits for it. It keeps the caller, so that it counts as a call in progress.
pub(super) async fn to_the_end<T, E>(
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Refusal> + Send + 'static,
{
    tokio::spawn(change).await.unwrap_or_else(|_| Err(stopping().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_change_goes_on_without_its_caller() {
        let ((begin, begun), (done, is_done)) = (oneshot::channel(), oneshot::channel());
        let call = to_the_end(async move {
            begun.await.ok();
            done.send("a line of the audit log").ok();
            Ok::<_, Refusal>(())
        });
        let mut call = Box::pin(call);
        assert!(call.as_mut().now_or_never().is_none(), "it waits");
        drop(call);
        begin.send(()).unwrap();
        assert_eq!(is_done.await, Ok("a line of the audit log"));
    }
}
