//! Which replicas have a write, for whoever has to know that it outlives its server.

use super::{AGAIN, Call, Link, REPLICAS, call::field};
use crate::store::{
    Unavailable,
    redis::{answer, scripts::Script},
};
use fred::types::Value;

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
    pub async fn run_replicated(
        &self,
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<(Value, Replication), Unavailable> {
        let key = keys.first().cloned().unwrap_or_default();
        let asked = Call { name: "INFO", arguments: vec!["replication".into()] };
        let said = self.timed("INFO", async { self.endpoint_of(&key)?.commands.ask(&asked).await }).await?;
        let replicas = field(&said, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0);
        let call = Call::script("EVAL", &script.code, keys, arguments);
        // Directly behind the script: it tells of what was written over the same connection before.
        let wait =
            Call { name: "WAIT", arguments: vec![answer::integer(replicas), answer::millis(REPLICAS)] };
        let written = async {
            loop {
                let endpoint = self.endpoint_of(&key)?;
                let mut answers = endpoint.commands.ask_all(&[&call, &wait]).await?;
                let confirmed = answers.pop().unwrap_or(Ok(Value::Null));
                match answers.pop().unwrap_or(Ok(Value::Null)) {
                    Ok(value) => return Ok(Value::Array(vec![value, confirmed?])),
                    // A slot that is on its way is waited for.
                    Err(error) => {
                        if self.redirected(error, &endpoint.commands, AGAIN).await?.is_some() {
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                }
            }
        };
        let parts = answer::list(self.timed(script.name, written).await?)?;
        let [value, confirmed] = <[Value; 2]>::try_from(parts).map_err(|_| answer::too_short())?;
        Ok((value, Replication { replicas, confirmed: answer::number(&confirmed)? }))
    }
}
