//! A mass reconnect: all clients lose their connection and resume at once, each with messages that it missed.

use crate::{
    crowd::{Crowd, Received},
    line::{Line, micros},
    load::{Publisher, Steady, shares},
    peer::Peer,
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::{io, time::Duration};
use switchyard_tests::report::{Section, figure, rounded};
use tokio::time::timeout;

const CLIENTS: usize = 10_000;
const MISSED_MESSAGES: u64 = 100;
/// As many as a listener can keep waiting without losing any.
const MAX_WAITING: usize = 1000;
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);
const ROOM: &str = "prices:eth";
/// The clients that stay connected, in a room of their own.
const STEADY_ROOM: &str = "prices:btc";
const STEADY_MEMBERS: usize = 100;
const STEADY_RATE: f64 = 20.0;

/// The result of one mass reconnect.
struct Storm {
    name: &'static str,
    seconds: f64,
    /// Processor seconds of the server.
    cpu: f64,
    /// Milliseconds from a client's first packet until it had received everything that it missed.
    p50: f64,
    p99: f64,
    messages: u64,
    wrong: u64,
}

impl Storm {
    /// `back` returns once a client has received everything.
    async fn of<F: Future<Output = io::Result<Received>>>(
        name: &'static str,
        peer: &Peer,
        back: impl Fn(usize) -> F,
    ) -> Self {
        let (cpu, began) = (peer.cpu(), micros());
        let mut returns = stream::iter(0..CLIENTS)
            .map(|n| {
                let back = back(n);
                async move {
                    let began = micros();
                    (timeout(RETURN_TIMEOUT, back).await, micros() - began)
                }
            })
            .buffer_unordered(MAX_WAITING);
        let (mut took, mut messages, mut wrong) = (vec![], 0, 0);
        while let Some((received, time)) = returns.next().await {
            took.push(time as u32);
            match received {
                Ok(Ok(received)) => {
                    messages += received.messages;
                    wrong += received.wrong() + received.messages.abs_diff(MISSED_MESSAGES);
                }
                _ => wrong += MISSED_MESSAGES,
            }
        }
        let seconds = (micros() - began) as f64 / 1e6;
        let [p50, p99] = shares(took, [0.50, 0.99]);
        Self { name, seconds, cpu: peer.cpu() - cpu, p50, p99, messages, wrong }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            figure(self.seconds),
            figure(self.cpu * 1e6 / CLIENTS as f64),
            figure(self.cpu * 1e6 / self.messages as f64),
            figure(self.p50),
            figure(self.p99),
            figure(self.messages as f64),
            self.wrong.to_string(),
        ]
    }
}

pub async fn measure() -> io::Result<Section> {
    let floor = Peer::floor(None).await;
    let least = Storm::of("floor", &floor, |_| async {
        let line = Line::open(&floor, &format!("/replay/{MISSED_MESSAGES}")).await?;
        receive_missed(line).await.map(|(received, _)| received)
    })
    .await;
    drop(floor);

    let node = Peer::node("").await;
    let mut crowd = Crowd::gather(&node, CLIENTS, |_| (vec![ROOM.to_owned()], None)).await;
    let sessions: Vec<String> = crowd.joined.iter().map(|(_, session)| session.clone()).collect();
    let mut wrong = crowd.refused;
    crowd.lose();
    let steady = Crowd::gather(&node, STEADY_MEMBERS, |_| (vec![STEADY_ROOM.to_owned()], None)).await;
    let next = |_| (STEADY_ROOM.to_owned(), STEADY_MEMBERS as u64);
    let steadily = |seconds| Steady { peer: &node, crowd: &steady, rate: STEADY_RATE, seconds, next: &next };
    let undisturbed = steadily(2.0).once().await?;
    let mut publisher = Publisher::open(&node).await?;
    for _ in 0..MISSED_MESSAGES {
        publisher.publish(ROOM, micros()).await?;
    }
    wrong += publisher.await_answers().await?;
    let storm = Storm::of("node", &node, |n| {
        let session = &sessions[n];
        let node = &node;
        async move {
            let (line, now) = Line::connect(node, Some(session)).await?;
            let (received, _) = receive_missed(line).await?;
            match now == *session {
                true => Ok(received),
                false => Err(io::Error::other("another session")),
            }
        }
    });
    let (storm, meanwhile) = tokio::join!(storm, async { steadily(1.0).once().await });
    let meanwhile = meanwhile?;
    wrong += undisturbed.wrong + meanwhile.wrong + least.wrong + storm.wrong;
    let figures = |storm: &Storm| {
        json!({
            "seconds": rounded(storm.seconds), "cpu_us_a_client": rounded(storm.cpu * 1e6 / CLIENTS as f64),
            "cpu_us_a_message": rounded(storm.cpu * 1e6 / storm.messages as f64), "p50_ms": rounded(storm.p50),
            "p99_ms": rounded(storm.p99), "messages": storm.messages, "wrong": storm.wrong,
        })
    };
    Ok(Section {
        name: "recovery",
        title: "Reconnect storm",
        how: format!(
            "{CLIENTS} clients of one room lose their connections, miss {MISSED_MESSAGES} messages and \
             reconnect, {MAX_WAITING} at a time: upgrade, key, session, and everything they missed. The floor \
             sends the same amount after the upgrade. Meanwhile, {STEADY_MEMBERS} other clients receive \
             {STEADY_RATE} messages a second in another room."
        ),
        columns: vec![
            "",
            "all back after, s",
            "CPU µs a client",
            "CPU µs a message",
            "reconnecting, p50 ms",
            "p99 ms",
            "messages",
            "lost, repeated, out of order",
        ],
        rows: vec![least.row(), storm.row()],
        remarks: vec![format!(
            "The other clients: p50 {} ms and p99 {} ms during the storm, {} and {} before it; lost, repeated or \
             out of order: {}.",
            figure(meanwhile.p50),
            figure(meanwhile.p99),
            figure(undisturbed.p50),
            figure(undisturbed.p99),
            undisturbed.wrong + meanwhile.wrong,
        )],
        figures: json!({
            "floor": figures(&least), "node": figures(&storm),
            "others_before": undisturbed.figures(), "others_meanwhile": meanwhile.figures(),
        }),
        wrong,
    })
}

/// Receives everything that a client missed.
async fn receive_missed(mut line: Line) -> io::Result<(Received, Line)> {
    let mut received = Received::default();
    while received.messages < MISSED_MESSAGES {
        line.fill().await?;
        let now = micros();
        line.texts(|text| received.record(text, now, true)).await?;
    }
    Ok((received, line))
}
