//! The host names by which operators may reach a node. A web page can point its own host name at this address
//! and then send requests from an operator's browser (DNS rebinding), but the browser reports the name that
//! it used.

use axum::http::{HeaderMap, Uri, header, uri::Authority};
use serde::{Deserialize, Deserializer, de::Error};
use std::net::IpAddr;

/// Reads `admin.hosts`: names without a port, in lower case.
pub(super) fn deserialize_hosts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    let name = |name: String| match name.parse::<Authority>() {
        Ok(host) if host.host() == name && !name.contains(['*', '@']) => Ok(name.to_lowercase()),
        _ => Err(D::Error::custom(format!(
            "admin.hosts: invalid host name '{name}'; expected something like \"node1.example.org\", without a port"
        ))),
    };
    names.into_iter().map(name).collect()
}

/// The host that a request was sent to, if it is not a name of this node. The host is taken from the target
/// of the request, which takes precedence, or from its `Host`.
pub(super) fn unknown_host<'a>(target: &'a Uri, headers: &'a HeaderMap, known: &[String]) -> Option<&'a str> {
    if let Some(authority) = target.authority()
        && !is_known(authority, known)
    {
        return Some(authority.as_str());
    }
    let mut all = headers.get_all(header::HOST).into_iter();
    // Some old programs do not send it, but every browser does.
    let host = all.next()?;
    let host = host.to_str().ok().filter(|_| all.next().is_none()).unwrap_or("?");
    match host.parse::<Authority>() {
        Ok(authority) if is_known(&authority, known) => None,
        _ => Some(host),
    }
}

fn is_known(authority: &Authority, known: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    // A name without a dot is resolved within the local network; nobody can register it on the internet.
    let is_local = !host.contains('.') || host.ends_with(".localhost");
    is_address || is_local || known.iter().any(|known| known == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_node_are_known_hosts() {
        let known = ["node1.example.org".to_owned()];
        let is_unknown = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            unknown_host(&"/metrics".parse().unwrap(), &headers, &known).is_some()
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
            assert!(!is_unknown(good), "{good}");
        }
        for bad in [
            "attacker.example:9090",
            "127.0.0.1.attacker.example",
            "node1.example.org.attacker.example",
            "a b.c",
            "@x.y",
            "x@localhost",
        ] {
            assert!(is_unknown(bad), "{bad}");
        }
        let mut two = HeaderMap::from_iter([(header::HOST, "localhost".parse().unwrap())]);
        two.append(header::HOST, "attacker.example".parse().unwrap());
        assert!(
            unknown_host(&"/".parse().unwrap(), &two, &known).is_some(),
            "it is unclear which one is meant"
        );
        let mut target = "http://attacker.example/metrics".parse().unwrap();
        two.remove(header::HOST);
        assert!(unknown_host(&target, &two, &known).is_some(), "the target takes precedence");
        target = "http://node1.example.org:9090/metrics".parse().unwrap();
        assert!(unknown_host(&target, &two, &known).is_none());
        assert!(unknown_host(&"/".parse().unwrap(), &HeaderMap::new(), &known).is_none());
    }
}
