//! Tests of the plugin registry: changes are made one after another, and lost versions are written again.

use super::Subject;
use crate::{Governance, HistoryChange, VersionHistory, version_history::tests::release};
use bytes::Bytes;

pub(super) async fn a_change_of_a_plugin_must_know_the_one_before(s: Subject) {
    let stored = s.store.plugins.read(None).await.unwrap().expect("not read before");
    assert!(
        stored.histories.is_empty() && s.store.plugins.read(Some(&stored.revision)).await.unwrap().is_none()
    );
    let change = async |history: &VersionHistory, code: Option<&Bytes>, dropped: &[String]| {
        s.store.plugins.change("p", HistoryChange { history, code, dropped }).await.unwrap()
    };
    let code = async |sha256: &str| s.store.plugins.code("p", sha256).await.unwrap();
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (one, _) = s.store.plugins.history("p").await.unwrap().activate(release("a"));
    let (other, _) = s.store.plugins.history("p").await.unwrap().activate(release("b"));
    assert!(change(&one, Some(&bytes("\0asm a")), &[]).await);
    assert!(!change(&other, Some(&bytes("\0asm b")), &[]).await, "it does not know about the first");
    assert_eq!((code("a").await, code("b").await), (Some(bytes("\0asm a")), None));
    let (other, _) = s.store.plugins.history("p").await.unwrap().activate(release("b"));
    assert!(change(&other, Some(&bytes("\0asm b")), &["a".to_owned()]).await);
    assert_eq!((code("a").await, code("b").await), (None, Some(bytes("\0asm b"))));
    let newer = s.store.plugins.read(Some(&stored.revision)).await.unwrap().expect("it changed");
    assert_eq!(newer.histories["p"], other);

    s.store.plugins.report(r#"{"p":1}"#).await.unwrap();
    s.store.plugins.report(r#"{"p":2}"#).await.unwrap();
    let reports = s.store.plugins.reports().await.unwrap();
    assert_eq!(reports.into_iter().map(|(_, report)| report).collect::<Vec<_>>(), [r#"{"p":2}"#]);
}

pub(super) async fn lost_versions_of_a_plugin_are_restored(s: Subject) {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let code = async |sha256: &str| s.store.plugins.code("p", sha256).await.unwrap();
    let restore = async |history: &VersionHistory, sha256: &str, text| {
        s.store.plugins.restore("p", history, vec![(sha256.to_owned(), bytes(text))]).await.unwrap();
        s.store.plugins.history("p").await.unwrap()
    };
    let (one, _) = VersionHistory::default().activate(release("a"));
    let (two, _) = one.activate(release("b"));
    assert_eq!(restore(&one, "a", "\0asm a").await, one, "the store has none");
    let before = s.store.plugins.read(None).await.unwrap().expect("not read before").revision;
    assert_eq!(restore(&two, "b", "\0asm b").await, two, "the restored one is newer");
    assert_eq!((code("a").await, code("b").await), (Some(bytes("\0asm a")), Some(bytes("\0asm b"))));
    let stored = s.store.plugins.read(Some(&before)).await.unwrap().expect("it changed");
    assert_eq!(stored.histories["p"], two);
    assert_eq!(restore(&one, "c", "\0asm c").await, two, "an older one is not taken");
    assert_eq!(code("c").await, None);
    assert_eq!(restore(&two, "c", "\0asm c").await, two);
    assert_eq!(code("c").await, Some(bytes("\0asm c")), "missing code is");
    assert!(s.store.plugins.read(Some(&stored.revision)).await.unwrap().is_none(), "no version changed");
}

pub(super) async fn a_plugin_that_was_removed_leaves_no_versions(s: Subject) {
    let (registry, code) = (&s.store.plugins, Bytes::from_static(b"\0asm"));
    let load = async |plugin: &str| {
        let (history, dropped) = VersionHistory::default().activate(release("a"));
        let change = HistoryChange { history: &history, code: Some(&code), dropped: &dropped };
        assert!(registry.change(plugin, change).await.unwrap());
    };
    load("p").await;
    load("q").await;
    let before = registry.read(None).await.unwrap().expect("not read before").revision;
    registry.forget("p").await.unwrap();
    assert_eq!(registry.history("p").await.unwrap(), VersionHistory::default());
    assert_eq!(registry.code("p", "a").await.unwrap(), None);
    assert_eq!(registry.code("q", "a").await.unwrap(), Some(code.clone()), "another plugin");
    let stored = registry.read(Some(&before)).await.unwrap().expect("it changed");
    assert_eq!(stored.histories.keys().collect::<Vec<_>>(), ["q"]);
    registry.forget("p").await.unwrap();
    load("p").await;
}

pub(super) async fn a_change_of_governance_must_know_the_one_before(s: Subject) {
    let governance = &s.store.governance;
    assert_eq!(governance.governance(None).await.unwrap(), Some(Governance::default()));
    let record = |revision| Governance { revision, ..Governance::default() };
    let none = Governance::default();
    assert!(governance.replace_governance(&none, &record(1)).await.unwrap());
    assert!(
        !governance.replace_governance(&none, &record(9)).await.unwrap(),
        "it does not know about the first"
    );
    let first = governance.governance(Some(0)).await.unwrap().expect("the first");
    assert_eq!(governance.governance(Some(first.id)).await.unwrap(), None, "nothing has changed");
    // After a loss, somebody else may write another record of the same revision.
    assert!(governance.replace_governance(&first, &record(1)).await.unwrap());
    let second = governance.governance(Some(first.id)).await.unwrap().expect("the second");
    assert!(!governance.replace_governance(&first, &record(2)).await.unwrap(), "it knows only the first");
    assert!(governance.replace_governance(&second, &record(2)).await.unwrap());
    let third = governance.governance(Some(second.id)).await.unwrap().expect("the third");
    let ancestors = [&first, &second].map(|record| (record.revision, record.id));
    assert_eq!((third.revision, third.ancestors), (2, ancestors.into()));
}
