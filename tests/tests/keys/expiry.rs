//! A certificate that is not valid now, or not for long.

use std::fs;
use switchyard_tests::{Answer, Certificate, Process, Server, eventually};

/// A certificate for `localhost` that is valid between two years.
fn certificate(from: i32, until: i32) -> Certificate {
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate").pem();
    Certificate { certificate, key: key.serialize_pem() }
}

#[tokio::test]
async fn an_expired_certificate_and_its_valid_replacement_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(2000, 2001).write_to(folder.path());
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n{}",
        Server::keys()
    );
    fs::write(folder.path().join("s.toml"), text).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let log = || fs::read_to_string(folder.path().join("stderr")).expect("a log");
    let get = async |path: &str| Answer::called(&process.admin, "GET", path, None, "").await;
    let left = async || {
        let (_, metrics) = get("/metrics").await;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("switchyard_certificate_expiry_seconds "));
        line.expect("the series").parse::<f64>().expect("a number")
    };
    let expired = "the certificate expired at 2001-01-01T00:00:00Z";
    // The log is written by a thread of its own.
    let warning = format!("{expired}: clients reject it");
    eventually("the warning", async || log().contains(&warning).then_some(())).await;
    let (status, body) = get("/readyz").await;
    assert!(status == 200 && body.contains(expired), "it stays ready and says so: {status} {body}");
    assert!(left().await < -86_400.0 * 365.0);

    certificate(2000, 4000).write_to(folder.path());
    eventually("a good certificate", async || {
        (!get("/readyz").await.1.contains("the certificate")).then_some(())
    })
    .await;
    assert!(left().await > 86_400.0 * 365.0);
    let taken = "the certificate was read again; it is valid until 4000-01-01T00:00:00Z";
    eventually("a line that says so", async || log().contains(taken).then_some(())).await;
    // Reloading the same certificate reports nothing.
    process.signal("HUP").await;
    eventually("SIGHUP", async || log().contains("SIGHUP").then_some(())).await;

    certificate(3000, 3001).write_to(folder.path());
    let early = "the certificate is not valid before 3000-01-01T00:00:00Z";
    eventually("one that is not good yet", async || get("/readyz").await.1.contains(early).then_some(()))
        .await;
    assert_eq!(log().matches(taken).count(), 1, "{}", log());
}
