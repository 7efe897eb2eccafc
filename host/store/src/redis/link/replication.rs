//! Runs a script and waits for replicas, for writes that must outlive their server.

use super::{
    Call, Link, MIN_REDIRECT_DELAY, REPLICA_TIMEOUT, Script,
    call::field,
    connection::{RedisConnection, command},
};
use crate::{
    Unavailable,
    redis::{arguments, replies},
};
use fred::{
    error::Error,
    interfaces::ClientLike,
    types::{Value, config::Options},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};

/// The reply to a command that was sent right after another one.
type SecondReply = BoxFuture<'static, Result<Value, Error>>;

/// How many replicas of a server have confirmed a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replication {
    /// How many replicas the server had at the time of the write.
    pub replicas: u64,
    /// How many of them confirmed it within 1 s.
    pub confirmed: u64,
}

impl Link {
    /// Runs a script, and waits a moment until the replicas of its server have what it has written.
    pub(crate) async fn run_replicated(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<(Value, Replication), Unavailable> {
        let key = keys.first().cloned().unwrap_or_default();
        let info = Call::info(&["replication"]);
        let info = self.timed("INFO", async { self.endpoint_of(&key)?.commands.send(&info).await }).await?;
        let replicas = field(&info, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0);
        let call = Call::script("EVAL", &script.code, keys, arguments);
        // Directly behind the script, because WAIT is about all writes of the same connection before it.
        let wait = Call {
            name: "WAIT",
            arguments: vec![arguments::integer(replicas), arguments::millis(REPLICA_TIMEOUT)],
        };
        let mut confirmed = None;
        let written = async {
            loop {
                let endpoint = self.endpoint_of(&key)?;
                match endpoint.commands.send_before(&call, &wait).await {
                    Ok((value, second_reply)) => {
                        confirmed = Some(second_reply);
                        return Ok(value);
                    }
                    // If the slot is moving, this waits until it has arrived.
                    Err(error) => {
                        if self.redirected(error, &endpoint.commands, MIN_REDIRECT_DELAY).await?.is_some() {
                            tokio::time::sleep(MIN_REDIRECT_DELAY).await;
                        }
                    }
                }
            }
        };
        let value = self.timed(script.name, written).await?;
        // The write succeeded, even if its server dies before it tells which replicas have it.
        let confirmed = match confirmed {
            Some(second_reply) => second_reply.await.ok(),
            None => None,
        };
        let confirmed = confirmed.and_then(|reply| replies::number(&reply).ok()).unwrap_or(0);
        Ok((value, Replication { replicas, confirmed }))
    }
}

impl RedisConnection {
    /// Sends a command, and another directly behind it over the same connection. The reply to the second may
    /// come much later or, if the connection breaks, never.
    async fn send_before(&self, call: &Call, then: &Call) -> Result<(Value, SecondReply), Error> {
        let client = self.ready().await?;
        let start = |call: &Call| {
            let (command, arguments) = (command(call), call.arguments.clone());
            let client = client.with_options(&Options { fail_fast: true, ..Options::default() });
            async move { client.custom::<Value, Value>(command, arguments).await }.boxed()
        };
        let (mut first, mut second) = (start(call), start(then));
        // Each is sent when it is polled for the first time.
        let answer = tokio::select! {
            biased;
            answer = &mut first => answer,
            // Only an error can come before the reply to the first.
            answer = &mut second => {
                second = ready(answer).boxed();
                first.await
            }
        };
        self.note_reply(&answer);
        Ok((answer?, second))
    }
}
