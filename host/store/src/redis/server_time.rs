//! Asks the Redis server that has a key for its clock. What is known of that clock afterwards is `clock`'s affair.

use crate::{
    Unavailable,
    redis::{answer, link::Link, scripts},
};

/// Unix microseconds.
pub(super) async fn server_time(link: &Link, key: String) -> Result<u64, Unavailable> {
    answer::number(&link.run(&scripts::TIME, vec![key], vec![]).await?)
}
