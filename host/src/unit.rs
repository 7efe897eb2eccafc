//! Durations and sizes as a configuration writes them: "25s", "10m", "64KiB".

use serde::{Deserialize, Deserializer, de::Error};
use std::{net::SocketAddr, time::Duration};

/// For `#[serde(deserialize_with = …)]`: "250ms", "2m", "1h 30m".
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(|_| {
        D::Error::custom(format!("'{text}' is no duration, such as \"250ms\", \"25s\" or \"10m\""))
    })
}

/// For `#[serde(deserialize_with = …)]`: "64KiB", "1MiB" (1024-based) or "64kB" (1000-based), in bytes.
pub fn size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    let text = String::deserialize(from)?;
    match text.parse::<bytesize::ByteSize>() {
        Ok(size) => Ok(size.as_u64() as usize),
        Err(_) => Err(D::Error::custom(format!("'{text}' is no size, such as \"64KiB\" or \"1MiB\""))),
    }
}

/// For `#[serde(deserialize_with = …)]`: where to listen.
pub fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("'{text}' is no address, such as \"127.0.0.1:8080\"")))
}
