//! Under which names operators reach a node. A page of a stranger can have its own name lead here, and then read what needs no key
//! with the operator's browser; but the browser says by which name it came.

use axum::http::{HeaderMap, Uri, header, uri::Authority};
use serde::{Deserialize, Deserializer, de::Error};
use std::net::IpAddr;

/// For `#[serde(deserialize_with = …)]`: names without a port, in small letters.
pub(super) fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    let name = |name: String| match name.parse::<Authority>() {
        Ok(host) if host.host() == name && !name.contains(['*', '@']) => Ok(name.to_lowercase()),
        _ => Err(D::Error::custom(format!(
            "admin.hosts: '{name}' is no name of a host, such as \"node1.example.org\", without a port"
        ))),
    };
    names.into_iter().map(name).collect()
}

/// What a request asked for that is not known here: in its target, which rules where it names a host, or in its `Host`.
pub(super) fn stranger<'a>(target: &'a Uri, headers: &'a HeaderMap, known: &[String]) -> Option<&'a str> {
    if let Some(authority) = target.authority()
        && !is_known(authority, known)
    {
        return Some(authority.as_str());
    }
    let mut all = headers.get_all(header::HOST).into_iter();
    // Programs of old say nothing; browsers always do.
    let said = all.next()?;
    let said = said.to_str().ok().filter(|_| all.next().is_none()).unwrap_or("?");
    match said.parse::<Authority>() {
        Ok(authority) if is_known(&authority, known) => None,
        _ => Some(said),
    }
}

fn is_known(authority: &Authority, known: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    // A name of one part is given within a network, and is nobody's on the internet.
    let is_near = !host.contains('.') || host.ends_with(".localhost");
    is_address || is_near || known.iter().any(|known| known == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_by_a_name_that_nobody_gave_the_node_is_a_stranger() {
        let known = ["node1.example.org".to_owned()];
        let is_stranger = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            stranger(&"/metrics".parse().unwrap(), &headers, &known).is_some()
        };
        for good in [
            "127.0.0.1:9090",
            "10.0.0.7",
            "[::1]:9090",
            "localhost:9090",
            "a.localhost",
            "switchyard:9090",
            "node1.example.org",
            "NODE1.example.org.:9090",
        ] {
            assert!(!is_stranger(good), "{good}");
        }
        for bad in [
            "attacker.example:9090",
            "127.0.0.1.attacker.example",
            "node1.example.org.attacker.example",
            "a b.c",
            "@x.y",
            "x@localhost",
        ] {
            assert!(is_stranger(bad), "{bad}");
        }
        let mut two = HeaderMap::from_iter([(header::HOST, "localhost".parse().unwrap())]);
        two.append(header::HOST, "attacker.example".parse().unwrap());
        assert!(stranger(&"/".parse().unwrap(), &two, &known).is_some(), "nobody says which one is meant");
        let mut target = "http://attacker.example/metrics".parse().unwrap();
        two.remove(header::HOST);
        assert!(stranger(&target, &two, &known).is_some(), "the target rules");
        target = "http://node1.example.org:9090/metrics".parse().unwrap();
        assert!(stranger(&target, &two, &known).is_none());
        assert!(stranger(&"/".parse().unwrap(), &HeaderMap::new(), &known).is_none());
    }
}
