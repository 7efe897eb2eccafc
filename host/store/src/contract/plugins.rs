//! Versions of plugins: changed one after another, and written again when they were lost.

use super::Subject;
use crate::{Change, Lineage, lineage::tests::release};
use bytes::Bytes;

pub(super) async fn of_two_changes_of_a_plugin_the_second_has_to_know_the_first(s: Subject) {
    let stored = s.store.plugins.read(None).await.unwrap().expect("unknown so far");
    assert!(
        stored.lineages.is_empty() && s.store.plugins.read(Some(&stored.revision)).await.unwrap().is_none()
    );
    let change = async |lineage: &Lineage, code: Option<&Bytes>, dropped: &[String]| {
        s.store.plugins.change("p", Change { lineage, code, dropped }).await.unwrap()
    };
    let code = async |sha256: &str| s.store.plugins.code("p", sha256).await.unwrap();
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (one, _) = s.store.plugins.lineage("p").await.unwrap().with(release("a"));
    let (other, _) = s.store.plugins.lineage("p").await.unwrap().with(release("b"));
    assert!(change(&one, Some(&bytes("\0asm a")), &[]).await);
    assert!(!change(&other, Some(&bytes("\0asm b")), &[]).await, "it does not know of the first");
    assert_eq!((code("a").await, code("b").await), (Some(bytes("\0asm a")), None));
    let (other, _) = s.store.plugins.lineage("p").await.unwrap().with(release("b"));
    assert!(change(&other, Some(&bytes("\0asm b")), &["a".to_owned()]).await);
    assert_eq!((code("a").await, code("b").await), (None, Some(bytes("\0asm b"))));
    let newer = s.store.plugins.read(Some(&stored.revision)).await.unwrap().expect("it changed");
    assert_eq!(newer.lineages["p"], other);

    s.store.plugins.report(r#"{"p":1}"#).await.unwrap();
    s.store.plugins.report(r#"{"p":2}"#).await.unwrap();
    let reports = s.store.plugins.reports().await.unwrap();
    assert_eq!(reports.into_iter().map(|(_, report)| report).collect::<Vec<_>>(), [r#"{"p":2}"#]);
}

pub(super) async fn what_was_lost_of_a_plugin_is_restored(s: Subject) {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let code = async |sha256: &str| s.store.plugins.code("p", sha256).await.unwrap();
    let restore = async |lineage: &Lineage, sha256: &str, text| {
        s.store.plugins.restore("p", lineage, vec![(sha256.to_owned(), bytes(text))]).await.unwrap();
        s.store.plugins.lineage("p").await.unwrap()
    };
    let (one, _) = Lineage::default().with(release("a"));
    let (two, _) = one.with(release("b"));
    assert_eq!(restore(&one, "a", "\0asm a").await, one, "the store has none");
    let before = s.store.plugins.read(None).await.unwrap().expect("unknown so far").revision;
    assert_eq!(restore(&two, "b", "\0asm b").await, two, "it is newer");
    assert_eq!((code("a").await, code("b").await), (Some(bytes("\0asm a")), Some(bytes("\0asm b"))));
    let stored = s.store.plugins.read(Some(&before)).await.unwrap().expect("it changed");
    assert_eq!(stored.lineages["p"], two);
    assert_eq!(restore(&one, "c", "\0asm c").await, two, "what is older is not taken");
    assert_eq!(code("c").await, None);
    assert_eq!(restore(&two, "c", "\0asm c").await, two);
    assert_eq!(code("c").await, Some(bytes("\0asm c")), "code that is missing is");
    assert!(s.store.plugins.read(Some(&stored.revision)).await.unwrap().is_none(), "no version changed");
}
