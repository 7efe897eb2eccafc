//! The script that reads a server's clock. What a node makes of the time is in `context::redis_clock`.

use crate::{
    Unavailable,
    redis::{link::Link, replies},
};

script!(TIME = "time");

/// The clock of the server that has `key`, in Unix microseconds.
pub(crate) async fn server_time(link: &Link, key: String) -> Result<u64, Unavailable> {
    Ok(replies::number(&link.run(&TIME, vec![key], vec![]).await?)?)
}
