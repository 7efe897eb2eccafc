//! What every frame begins with: its `type`, and the `id` of a request. Knows no kind of frame.

use serde::Serialize;

#[derive(Serialize)]
struct Envelope<'a, I, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<I>,
    #[serde(flatten)]
    body: T,
}

/// The text of a frame: `type` is `kind`, and `id` is that of the request. `body` must serialize as an object.
pub fn encode(kind: &str, id: Option<impl Serialize>, body: impl Serialize) -> String {
    serde_json::to_string(&Envelope { kind, id, body }).expect("frames are plain data")
}
