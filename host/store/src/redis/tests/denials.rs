//! Bans and revocations on a Redis that loses them, or goes back to an earlier state.

use super::*;
use crate::denial::{Denial, DenialRegistry, DenialTarget, DenyError, MAX_DENIALS, StoredDenials};
use switchyard_protocol::unix_ms;

const HASH: &str = "s:{/denials}:all";

fn principal(name: &str) -> DenialTarget {
    DenialTarget::principal(name).unwrap()
}

async fn ban(node: &RedisStore, name: &str, millis: u64) {
    let since = unix_ms();
    node.deny(&Denial { target: principal(name), since, until: since + millis }).await.unwrap();
}

async fn next(node: &RedisStore, known: &StoredDenials) -> StoredDenials {
    DenialRegistry::read(node, known).await.unwrap().expect("it changed")
}

fn names(known: &StoredDenials) -> Vec<String> {
    known.denials.list(unix_ms()).iter().map(|denial| denial.target.name()).collect()
}

#[tokio::test]
async fn lost_bans_are_restored_and_lifted_bans_stay_lifted() {
    let server = Server::start(&[]);
    let site = server.site();
    let (one, two) = (connect(&site).await.unwrap(), connect(&site).await.unwrap());
    for name in ["a", "b", "c"] {
        ban(&one, name, 3_600_000).await;
    }
    assert!(one.lift(&principal("b")).await.unwrap());
    let known = next(&one, &StoredDenials::default()).await;
    let behind = next(&two, &StoredDenials::default()).await;
    assert_eq!((names(&known), names(&behind)), (vec!["a".into(), "c".into()], vec!["a".into(), "c".into()]));
    one.lift(&principal("c")).await.unwrap();
    let known = next(&one, &known).await;
    assert_eq!(names(&known), ["a"]);

    server.ask(&["FLUSHALL"]);
    ban(&one, "d", 3_600_000).await;
    // The node that does not know that "c" was lifted reads first.
    let first = next(&two, &behind).await;
    assert_eq!(names(&first), ["a", "c", "d"]);
    let second = next(&one, &known).await;
    assert_eq!(names(&second), ["a", "d"]);
    let third = next(&two, &first).await;
    assert_eq!(names(&third), ["a", "d"]);
    let fourth = next(&one, &second).await;
    assert!(DenialRegistry::read(&*one, &fourth).await.unwrap().is_none(), "nothing changes any more");

    // The registry is empty and cannot be written: the node keeps what it knows, and reports that.
    server.ask(&["FLUSHALL"]);
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_eq!(names(&next(&one, &fourth).await), ["a", "d"]);
    let error = one.check().await.expect_err("an outage").to_string();
    assert!(error.contains("lost 4 of its bans") && error.contains("NOREPLICAS"), "{error}");
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let known = next(&one, &fourth).await;
    assert_eq!(names(&known), ["a", "d"]);
    one.check().await.expect("the outage is over");
    assert_eq!(server.ask(&["HLEN", HASH]), "5");
    assert_eq!(names(&next(&two, &StoredDenials::default()).await), ["a", "d"], "it was written");
}

/// A replica that is promoted may be behind.
#[tokio::test]
async fn a_registry_that_went_back_takes_what_is_newer() {
    let server = Server::start(&[]);
    let node = connect(&server.site()).await.unwrap();
    ban(&node, "a", 3_600_000).await;
    let (before, revision) =
        (server.ask(&["HGET", HASH, "principal a"]), server.ask(&["HGET", HASH, "/revision"]));
    node.lift(&principal("a")).await.unwrap();
    ban(&node, "b", 3_600_000).await;
    let known = next(&node, &StoredDenials::default()).await;
    server.ask(&["HSET", HASH, "principal a", &before, "/revision", &revision]);
    server.ask(&["HDEL", HASH, "principal b"]);
    let known = next(&node, &known).await;
    assert_eq!(names(&known), ["b"]);
    assert_eq!(names(&next(&node, &StoredDenials::default()).await), ["b"], "it was written");
}

#[tokio::test]
async fn the_registry_is_bounded_and_forgets_what_has_ended() {
    let server = Server::start(&[]);
    let node = connect(&server.site()).await.unwrap();
    let (now, far) = (unix_ms(), unix_ms() + 3_600_000);
    let fill = format!(
        "for n = 1, {MAX_DENIALS} do redis.call('HSET', KEYS[1], 'principal p' .. n, '1 {far} 1 {far}') end; \
         redis.call('HSET', KEYS[1], 'principal old', '1 {} 1 2')",
        now - 120_000
    );
    server.ask(&["EVAL", &fill, "1", HASH]);
    let denial = |name: &str| Denial { target: principal(name), since: now, until: far };
    let error = node.deny(&denial("more")).await.unwrap_err();
    assert!(matches!(error, DenyError::Full) && error.to_string().contains("lift some"), "{error}");
    node.deny(&denial("p7")).await.expect("it is banned already");
    assert!(node.lift(&principal("p8")).await.unwrap());
    node.deny(&denial("more")).await.expect("there is space");
    assert_eq!(server.ask(&["HEXISTS", HASH, "principal old"]), "0", "it ended long ago");
}
