//! Bans and revocations on a Redis that loses them, or goes back to an earlier state.

use super::*;
use crate::denial::{
    Denial, DenialRegistry, DenialTarget, DenyError, MAX_DENIALS, MAX_PAST_DENIALS, StoredDenials,
};
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

/// Two nodes whose operators do not know of each other.
#[tokio::test]
async fn the_later_end_of_two_revocations_holds_and_the_newer_of_two_bans() {
    let server = Server::start(&[]);
    let site = server.site();
    let (one, two) = (connect(&site).await.unwrap(), connect(&site).await.unwrap());
    let now = unix_ms();
    let (long, short) = (now + 7_200_000, now + 3_600_000);
    let targets = [DenialTarget::token("t").unwrap(), DenialTarget::tokens_of("a").unwrap(), principal("a")];
    for (target, expected) in targets.into_iter().zip([long, long, short]) {
        one.deny(&Denial { target: target.clone(), since: now, until: long }).await.unwrap();
        two.deny(&Denial { target: target.clone(), since: now + 1, until: short }).await.unwrap();
        let known = next(&one, &StoredDenials::default()).await;
        let expected = Denial { target: target.clone(), since: now + 1, until: expected };
        assert_eq!(known.denials.of(&target, now), Some(expected));
    }
}

#[tokio::test]
async fn a_ban_that_has_ended_by_the_clock_of_redis_is_refused() {
    let server = Server::start(&[]);
    let node = connect(&server.site()).await.unwrap();
    for behind in [1000, 3_600_000] {
        let since = unix_ms() - behind;
        let denial = Denial { target: principal("a"), since, until: since + 1000 };
        let error = node.deny(&denial).await.unwrap_err();
        assert!(matches!(error, DenyError::Ended) && error.to_string().contains("clock"), "{error}");
    }
    assert_eq!(server.ask(&["EXISTS", HASH]), "0");
}

/// Regression: a node that remembers more than the registry wrote it all again, and again.
#[tokio::test]
async fn what_nodes_write_again_does_not_exceed_the_bound() {
    let server = Server::start(&[]);
    let node = connect(&server.site()).await.unwrap();
    let far = unix_ms() + 3_600_000;
    let fill = |name: &str| {
        let fill = format!(
            "for n = 1, {} do redis.call('HSET', KEYS[1], '{name}' .. n, n .. ' {far}') end; \
             redis.call('HSET', KEYS[1], '/revision', 'e ' .. ARGV[1])",
            MAX_PAST_DENIALS - 10
        );
        server.ask(&["EVAL", &fill, "1", HASH, &name.len().to_string()]);
    };
    fill("principal a");
    let known = next(&node, &StoredDenials::default()).await;
    server.ask(&["DEL", HASH]);
    fill("principal bb");
    let known = next(&node, &known).await;
    let entries = (MAX_PAST_DENIALS + 1).to_string();
    assert_eq!(server.ask(&["HLEN", HASH]), entries, "with the revision");
    let known = next(&node, &known).await;
    assert!(DenialRegistry::read(&*node, &known).await.unwrap().is_none(), "nothing is written any more");
}
