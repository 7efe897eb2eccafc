//! Two tenants on one node: one sends twice what its tier allows, over many connections, and the other is calm.

use crate::{
    crowd::Crowd,
    line::{Line, micros},
    load::{Steady, Window},
    peer::Peer,
};
use serde_json::json;
use std::{cell::Cell, io, time::Duration};
use switchyard_tests::{
    Server,
    report::{Section, figure, rounded},
};
use tokio::time::{Instant, timeout};

const NOISY_CONNECTIONS: usize = 1000;
/// Messages a second that the tier of the noisy tenant allows, over all its connections.
const ALLOWED: f64 = 500.0;
/// How often each of its connections publishes, which is twice that in all.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
const CALM_MEMBERS: usize = 10;
const CALM_RATE: f64 = 100.0;
const WINDOW: f64 = 3.0;
/// How long the bucket of the noisy tenant takes to become empty, and the connections to be out of step.
const WARM_UP: Duration = Duration::from_secs(3);

/// What the noisy tenant was answered.
#[derive(Clone, Copy, Default)]
struct Answers {
    published: u64,
    refused: u64,
    other: u64,
}

pub async fn measure() -> io::Result<Section> {
    let noisy = format!(
        "publishes = \"{ALLOWED}/s\"\nconnections = 10000\n{}",
        Server::key("sk_noisy", "noisy", r#"["subscribe", "publish"]"#, "tier = \"noisy\"")
    );
    let peer = Peer::node(&format!("[tier.noisy]\n{noisy}")).await;
    let crowd = Crowd::gather(&peer, CALM_MEMBERS, |_| (vec!["calm".to_owned()], None)).await;
    let alone = calm(&peer, &crowd).await?;
    let mut lines = vec![];
    for _ in 0..NOISY_CONNECTIONS {
        lines.push(Line::connect_as(&peer, r#"{"apiKey":"sk_noisy"}"#, None).await?.0);
    }
    let (busy, answers, before) = (Cell::new(true), Cell::new(Answers::default()), peer.grown().await);
    let senders = futures_util::future::try_join_all(
        lines.into_iter().enumerate().map(|(n, line)| publish(line, n, &busy, &answers)),
    );
    let measured = async {
        tokio::time::sleep(WARM_UP).await;
        let (start, began) = (answers.get(), micros());
        let beside = calm(&peer, &crowd).await;
        let (end, seconds) = (answers.get(), (micros() - began) as f64 / 1e6);
        busy.set(false);
        (beside, start, end, seconds)
    };
    let ((beside, start, end, seconds), sent) = tokio::join!(measured, senders);
    sent?;
    let (beside, grown) = (beside?, peer.grown().await as f64 - before as f64);
    let a_second = |count: &dyn Fn(Answers) -> u64| (count(end) - count(start)) as f64 / seconds;
    let (published, refused) = (a_second(&|all| all.published), a_second(&|all| all.refused));
    let (rate, p99) = (published / ALLOWED, beside.p99 / alone.p99);
    let row = |name: &str, window: &Window| {
        let Window { p50, p99, each, wrong, .. } = window;
        vec![
            name.to_owned(),
            figure(window.deliveries()),
            figure(*each),
            figure(*p50),
            figure(*p99),
            wrong.to_string(),
        ]
    };
    Ok(Section {
        name: "tenants",
        title: "A noisy tenant beside a calm one",
        how: format!(
            "The calm tenant has {CALM_MEMBERS} members of a room with {CALM_RATE} messages a second. The noisy one has \
             {NOISY_CONNECTIONS} connections that publish twice the {ALLOWED} messages a second that its tier allows."
        ),
        columns: vec![
            "calm tenant",
            "deliveries a second",
            "CPU µs of the node per delivery",
            "p50 ms",
            "p99 ms",
            "lost, repeated, out of order",
        ],
        rows: vec![row("alone", &alone), row("beside the noisy one", &beside)],
        remarks: vec![format!(
            "The noisy tenant published {published:.0} messages a second, {rate:.2} of its rate, and was refused \
             {refused:.0} a second. Memory grew by {:.0} KiB meanwhile. The p99 of the calm one is {p99:.2} times that \
             without it.",
            grown / 1024.0
        )],
        figures: json!({
            "alone": alone.figures(), "beside": beside.figures(), "p99_ratio": rounded(p99),
            "noisy_published_a_second": rounded(published), "noisy_refused_a_second": rounded(refused),
            "noisy_of_its_rate": rounded(rate), "grown_bytes": grown,
        }),
        wrong: alone.wrong + beside.wrong + crowd.refused + end.other,
    })
}

async fn calm(peer: &Peer, crowd: &Crowd) -> io::Result<Window> {
    let next = |_| ("calm".to_owned(), CALM_MEMBERS as u64);
    Steady { peer, crowd, rate: CALM_RATE, seconds: WINDOW, next: &next }.measure().await
}

/// Publishes at its interval, whatever it is answered, until it is told to stop.
async fn publish(mut line: Line, n: usize, busy: &Cell<bool>, answers: &Cell<Answers>) -> io::Result<()> {
    let start = Instant::now() + PUBLISH_INTERVAL.mul_f64(n as f64 / NOISY_CONNECTIONS as f64);
    let mut ticks = tokio::time::interval_at(start, PUBLISH_INTERVAL);
    while busy.get() {
        ticks.tick().await;
        line.send(&format!(r#"{{"type":"publish","room":"noise:{n}","data":{{"n":{n}}}}}"#)).await?;
        let answer = timeout(PUBLISH_INTERVAL, line.text()).await;
        let mut all = answers.get();
        match answer {
            Ok(answer) => {
                let answer = answer?;
                match (answer.contains(r#""type":"published""#), answer.contains("rate_limited")) {
                    (true, _) => all.published += 1,
                    (_, true) => all.refused += 1,
                    _ => all.other += 1,
                }
            }
            Err(_) => all.other += 1,
        }
        answers.set(all);
    }
    Ok(())
}
