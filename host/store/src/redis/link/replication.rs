//! Which replicas have a write, for whoever has to know that it outlives its server.

use super::{
    AGAIN, Call, Link, REPLICAS, Script,
    call::field,
    connection::{Connection, command},
};
use crate::{Unavailable, redis::answer};
use fred::{
    error::Error,
    interfaces::ClientLike,
    types::{Value, config::Options},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};

/// The answer to a command behind another.
type Behind = BoxFuture<'static, Result<Value, Error>>;

/// How far a write has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replication {
    /// Replicas that were connected to the server.
    pub replicas: u64,
    /// Those of them that said in time that they have it.
    pub confirmed: u64,
}

impl Link {
    /// Runs a script, and says which of the server's replicas have what was written; waits a moment for them.
    pub(crate) async fn run_replicated(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<(Value, Replication), Unavailable> {
        let key = keys.first().cloned().unwrap_or_default();
        let asked = Call::info(&["replication"]);
        let said = self.timed("INFO", async { self.endpoint_of(&key)?.commands.ask(&asked).await }).await?;
        let replicas = field(&said, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0);
        let call = Call::script("EVAL", &script.code, keys, arguments);
        // Directly behind the script: it tells of what was written over the same connection before.
        let wait =
            Call { name: "WAIT", arguments: vec![answer::integer(replicas), answer::millis(REPLICAS)] };
        let mut confirmed = None;
        let written = async {
            loop {
                let endpoint = self.endpoint_of(&key)?;
                match endpoint.commands.ask_before(&call, &wait).await {
                    Ok((value, waits)) => {
                        confirmed = Some(waits);
                        return Ok(value);
                    }
                    // A slot that is on its way is waited for.
                    Err(error) => {
                        if self.redirected(error, &endpoint.commands, AGAIN).await?.is_some() {
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                }
            }
        };
        let value = self.timed(script.name, written).await?;
        // What is written is written, also where its server does not live to say who has it.
        let confirmed = match confirmed {
            Some(waits) => waits.await.ok(),
            None => None,
        };
        let confirmed = confirmed.and_then(|said| answer::number(&said).ok()).unwrap_or(0);
        Ok((value, Replication { replicas, confirmed }))
    }
}

impl Connection {
    /// Has a command carried out, and another directly behind it over the same connection. The second's answer may come much later
    /// or, where the connection breaks, never.
    async fn ask_before(&self, call: &Call, then: &Call) -> Result<(Value, Behind), Error> {
        let client = self.ready().await?;
        let send = |call: &Call| {
            let (command, arguments) = (command(call), call.arguments.clone());
            let client = client.with_options(&Options { fail_fast: true, ..Options::default() });
            async move { client.custom::<Value, Value>(command, arguments).await }.boxed()
        };
        let (mut first, mut second) = (send(call), send(then));
        // Each is sent when it is polled for the first time.
        let answer = tokio::select! {
            biased;
            answer = &mut first => answer,
            // Only an error comes before what was asked first.
            answer = &mut second => {
                second = ready(answer).boxed();
                first.await
            }
        };
        self.note_reply(&answer);
        Ok((answer?, second))
    }
}
