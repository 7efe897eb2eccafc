//! The script that writes which plugin governs which rooms. What the record means is in `governance`.

use crate::{
    Governance, Unavailable,
    redis::{arguments, link::Link, names::Names, replies},
};

script!(REPLACE_GOVERNANCE = "replace_governance");

/// Replaces the record if its id is `expected`. Returns whether it was.
pub(crate) async fn replace(
    link: &Link,
    names: &Names,
    expected: u64,
    next: &Governance,
) -> Result<bool, Unavailable> {
    let record = serde_json::to_string(next).expect("plain data");
    let arguments = vec![arguments::integer(expected), arguments::integer(next.id), record.into()];
    let replaced = link.run(&REPLACE_GOVERNANCE, vec![names.governance()], arguments).await?;
    Ok(replies::number(&replaced)? == 1)
}
