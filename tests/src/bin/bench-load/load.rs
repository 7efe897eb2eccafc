//! A window of steady publishing: its cost, the latencies, and whether all messages arrived.

use crate::{
    crowd::Crowd,
    floor::{data, delivery},
    line::{Line, micros},
    peer::Peer,
};
use serde_json::{Value, json};
use std::{collections::HashMap, io, time::Duration};
use switchyard_tests::report::{median, rounded};
use tokio::time::{sleep, timeout};

const WARM_UP: f64 = 0.7;
/// The number of windows per measurement, of which the median counts. On a shared machine, a single window
/// can be off by a third.
const ROUNDS: usize = 3;

/// The load: rates are messages per second in total.
pub struct Steady<'a> {
    pub peer: &'a Peer,
    pub crowd: &'a Crowd,
    pub rate: f64,
    /// The duration of each window.
    pub seconds: f64,
    /// The room of the n-th message, and how many members should receive it.
    pub next: &'a dyn Fn(u64) -> (String, u64),
}

/// The results of several windows.
pub struct Window {
    pub messages: u64,
    pub received: u64,
    pub seconds: f64,
    /// Processor microseconds of the server per delivery. This and the following are medians of the windows.
    pub each: f64,
    /// p50 and p99 of the latency, in milliseconds.
    pub p50: f64,
    pub p99: f64,
    /// The number of messages that were refused, lost, duplicated or out of order.
    pub wrong: u64,
}

impl Window {
    pub fn deliveries(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    pub fn figures(&self) -> Value {
        json!({
            "messages": self.messages, "deliveries": self.received, "deliveries_a_second": rounded(self.deliveries()),
            "cpu_us_a_delivery": rounded(self.each), "p50_ms": rounded(self.p50), "p99_ms": rounded(self.p99),
            "wrong": self.wrong,
        })
    }

    fn of(windows: &[Window]) -> Self {
        let middle = |value: &dyn Fn(&Window) -> f64| median(windows.iter().map(value).collect());
        Self {
            messages: windows.iter().map(|window| window.messages).sum(),
            received: windows.iter().map(|window| window.received).sum(),
            seconds: windows.iter().map(|window| window.seconds).sum(),
            each: middle(&|window| window.each),
            p50: middle(&|window| window.p50),
            p99: middle(&|window| window.p99),
            wrong: windows.iter().map(|window| window.wrong).sum(),
        }
    }
}

/// The offset of each room, for the minimal server, which does not count.
pub struct Publisher<'a> {
    peer: &'a Peer,
    line: Line,
    offsets: HashMap<String, u64>,
    pub sent: u64,
    refused: u64,
    answered: u64,
}

impl<'a> Publisher<'a> {
    pub async fn open(peer: &'a Peer) -> io::Result<Self> {
        let line = peer.publisher().await?;
        Ok(Self { peer, line, offsets: HashMap::new(), sent: 0, refused: 0, answered: 0 })
    }

    pub async fn publish(&mut self, room: &str, at: u64) -> io::Result<()> {
        self.sent += 1;
        if self.peer.is_node() {
            let data = data(at);
            return self
                .line
                .send(&format!(r#"{{"type":"publish","id":1,"room":"{room}","data":{data}}}"#))
                .await;
        }
        let offset = self.offsets.entry(room.to_owned()).or_default();
        *offset += 1;
        let text = delivery(room, *offset, at);
        self.line.send(&format!("{room} {text}")).await
    }

    /// Publishes at a rate, with data of a given size.
    pub async fn flood(&mut self, room: &str, bytes: usize, rate: f64, seconds: f64) -> io::Result<()> {
        let data = "x".repeat(bytes);
        for _ in 0..(rate * seconds) as u64 {
            self.line
                .send(&format!(r#"{{"type":"publish","id":1,"room":"{room}","data":"{data}"}}"#))
                .await?;
            self.rest(Duration::from_secs_f64(1.0 / rate)).await?;
        }
        Ok(())
    }

    /// Reads answers for a while.
    async fn rest(&mut self, time: Duration) -> io::Result<()> {
        let reading = async {
            loop {
                self.line.fill().await?;
                let (refused, answered) = (&mut self.refused, &mut self.answered);
                self.line
                    .texts(|text| match text.starts_with(br#"{"type":"published""#) {
                        true => *answered += 1,
                        false => *refused += 1,
                    })
                    .await?;
            }
        };
        timeout(time, reading).await.unwrap_or(Ok(()))
    }

    /// Publishes at this rate, and returns the number of messages and of expected deliveries.
    pub async fn pace(
        &mut self,
        rate: f64,
        seconds: f64,
        mut next: impl FnMut(u64) -> (String, u64),
    ) -> io::Result<(u64, u64)> {
        let (began, apart) = (micros(), 1e6 / rate);
        let count = ((seconds * rate).round() as u64).max(1);
        let mut expected = 0;
        for n in 0..count {
            let due = began + (n as f64 * apart) as u64;
            let now = micros();
            if now + 500 < due {
                self.rest(Duration::from_micros(due - now)).await?;
            }
            let now = micros();
            // The resolution of timers is not the server's fault. A longer delay is, because then this had to
            // wait for the server.
            let at = if now < due + 2000 { now } else { due };
            let (room, members) = next(n);
            expected += members;
            self.publish(&room, at).await?;
        }
        Ok((count, expected))
    }

    /// Waits until all publishes are answered, and returns how many were unanswered or refused.
    pub async fn await_answers(&mut self) -> io::Result<u64> {
        for _ in 0..40 {
            if !self.peer.is_node() || self.answered + self.refused >= self.sent {
                break;
            }
            self.rest(Duration::from_millis(50)).await?;
        }
        Ok(if self.peer.is_node() { self.sent - self.answered.min(self.sent) } else { 0 })
    }
}

impl Steady<'_> {
    pub async fn measure(&self) -> io::Result<Window> {
        let mut publisher = Publisher::open(self.peer).await?;
        let (_, expected) = publisher.pace(self.rate, WARM_UP, self.next).await?;
        self.crowd.wait_for_messages(expected).await;
        let (mut windows, mut wrong) = (vec![], self.crowd.take().wrong());
        for _ in 0..ROUNDS {
            windows.push(self.window(&mut publisher).await?);
        }
        wrong += publisher.await_answers().await?;
        // Waits a moment for messages that should not arrive.
        sleep(Duration::from_millis(50)).await;
        wrong += self.crowd.take().messages;
        let all = Window::of(&windows);
        Ok(Window { wrong: all.wrong + wrong, ..all })
    }

    /// Runs one window, from the first message on.
    pub async fn once(&self) -> io::Result<Window> {
        let mut publisher = Publisher::open(self.peer).await?;
        let window = self.window(&mut publisher).await?;
        Ok(Window { wrong: window.wrong + publisher.await_answers().await?, ..window })
    }

    async fn window(&self, publisher: &mut Publisher<'_>) -> io::Result<Window> {
        let (cpu, began) = (self.peer.cpu(), micros());
        let (messages, expected) = publisher.pace(self.rate, self.seconds, self.next).await?;
        let seconds = (micros() - began) as f64 / 1e6;
        self.crowd.wait_for_messages(expected).await;
        let cpu = self.peer.cpu() - cpu;
        let received = self.crowd.take();
        let wrong = received.wrong() + expected.abs_diff(received.messages);
        let each = cpu * 1e6 / received.messages as f64;
        let [p50, p99] = shares(received.late, [0.50, 0.99]);
        Ok(Window { messages, received: received.messages, seconds, each, p50, p99, wrong })
    }
}

/// The given quantiles of the times, such as 0.99, in milliseconds.
pub fn shares<const N: usize>(mut micros: Vec<u32>, shares: [f64; N]) -> [f64; N] {
    micros.sort_unstable();
    shares.map(|share| {
        let at = (micros.len() as f64 * share).ceil() as usize;
        micros.get(at.saturating_sub(1)).map_or(f64::NAN, |time| f64::from(*time) / 1e3)
    })
}
