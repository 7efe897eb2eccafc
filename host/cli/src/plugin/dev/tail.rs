//! Prints each call of a plugin's hooks and its answer, as the node records them.

use crate::{
    admin_client::AdminClient,
    output::{OutputError, print_line},
    plugin::versions,
};
use std::sync::Arc;
use switchyard_plugin::{Question, RecordedCall};
use tokio::sync::{Notify, oneshot};

/// Runs until the node stops. `loaded` tells that there is another version. Sends `began` when calls are printed
/// from now on, or when there is no version whose calls could be.
pub(super) async fn print_calls(
    admin: Arc<AdminClient>,
    name: String,
    loaded: Arc<Notify>,
    began: oneshot::Sender<()>,
) -> anyhow::Result<()> {
    let mut began = Some(began);
    let path = versions::path(&name, "/record?for=1h&data=true");
    loop {
        let ended = admin
            .read_lines(&path, |line| {
                began.take().into_iter().for_each(|began| _ = began.send(()));
                let Ok(call) = serde_json::from_str::<RecordedCall>(line) else { return Ok(()) };
                Ok(print_line!("{}", text(&call))?)
            })
            .await;
        began.take().into_iter().for_each(|began| _ = began.send(()));
        // A recording ends after an hour, and when another version becomes active. It cannot begin without an
        // active version.
        match ended {
            Ok(()) => {}
            Err(error) if error.is::<OutputError>() => return Err(error),
            Err(_) => loaded.notified().await,
        }
    }
}

/// The hook, what it was asked, and what it answered.
fn text(call: &RecordedCall) -> String {
    let data = |data: &Option<Box<serde_json::value::RawValue>>| {
        data.as_ref().map_or_else(String::new, |data| format!("  {}", data.get()))
    };
    let asked = match &call.ask {
        Question::Connect(request) => request.principal.id.to_string(),
        Question::Room(question) => question.room.clone(),
        Question::Subscribe(question) => {
            format!("{}  {}{}", question.room, question.principal.id, data(&question.filter))
        }
        Question::Publish(question) => {
            format!("{}  {}{}", question.message.room, question.principal.id, data(&question.message.data))
        }
        Question::Deliver(question) => {
            let passed = call.answer["passes"].as_array();
            let count = passed.map(|passes| passes.iter().filter(|passes| **passes == true).count());
            if let Some(count) = count {
                let (room, of) = (&question.message.room, question.filters.len());
                return format!("deliver    {room}{}  {count} of {of} filters", data(&question.message.data));
            }
            question.message.room.clone()
        }
    };
    format!("{:10} {asked}  {}", call.ask.hook(), call.answer)
}
