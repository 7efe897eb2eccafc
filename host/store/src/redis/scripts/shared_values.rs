//! The scripts that write and read the shared values of plugins. What they are for is in `shared_values`.

use crate::{
    RemovedValues, Unavailable, ValueChange, ValueExchange, ValuePosition,
    redis::{
        arguments,
        link::Link,
        names::Names,
        replies::{Elements, InvalidReply},
        revision,
    },
};
use bytes::Bytes;
use fred::types::Value;

script!(EXCHANGE_VALUES = "exchange_values");
script!(REMOVE_VALUES = "remove_values");

/// A value that lives longer than this is stored for ever. It is far below what Lua can count exactly.
const MAX_TTL_MS: u64 = 1 << 50;

pub(crate) async fn exchange(
    link: &Link,
    names: &Names,
    plugin: &str,
    position: &ValuePosition,
    changes: &[ValueChange],
    max_bytes: u64,
) -> Result<ValueExchange, Unavailable> {
    let ValuePosition { epoch, read, learned } = position;
    let mut arguments = vec![
        revision::new_epoch().into(),
        epoch.as_ref().into(),
        arguments::integer(*read),
        arguments::integer(*learned),
        arguments::integer(max_bytes),
    ];
    for ValueChange { key, principal, data, ttl_ms } in changes {
        let ttl_ms = if *ttl_ms > MAX_TTL_MS { 0 } else { *ttl_ms };
        arguments.extend([
            Value::Bytes(key.clone()),
            principal.as_ref().into(),
            arguments::integer(ttl_ms),
            arguments::integer(data.is_some().into()),
            Value::Bytes(data.clone().unwrap_or_default()),
        ]);
    }
    let mut reply = Elements::of(link.run(&EXCHANGE_VALUES, names.shared_values(plugin), arguments).await?)?;
    let (epoch, restart) = (reply.text()?, reply.flag()?);
    let position = ValuePosition { epoch, read: reply.number()?, learned: reply.number()? };
    let (has_more, mut changes) = (reply.flag()?, vec![]);
    while let Ok(key) = reply.next() {
        let (key, principal, ttl_ms, is_value) = (bytes(key)?, reply.text()?, reply.number()?, reply.flag()?);
        let data = bytes(reply.next()?)?;
        changes.push(ValueChange { key, principal, data: is_value.then_some(data), ttl_ms });
    }
    Ok(ValueExchange { position, restart, has_more, changes })
}

pub(crate) async fn remove(link: &Link, names: &Names, plugin: &str) -> Result<RemovedValues, Unavailable> {
    let mut reply = Elements::of(link.run(&REMOVE_VALUES, names.shared_values(plugin), vec![]).await?)?;
    Ok(RemovedValues { values: reply.number()?, bytes: reply.number()? })
}

fn bytes(value: Value) -> Result<Bytes, InvalidReply> {
    let kind = value.kind();
    let bytes = value.into_owned_bytes().ok_or(InvalidReply::Kind { expected: "bytes", found: kind })?;
    Ok(Bytes::from(bytes))
}
