//! A minimal server to compare with: it encodes a frame once and writes it to each member of a room in one
//! system call. It has no keys, history, filters or limits, and slow clients lose messages.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};
use switchyard_tests::{FIN, PING, TEXT, framed};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::{interval, sleep},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

#[derive(Default)]
struct Room {
    members: Vec<Rc<TcpStream>>,
    /// The data that waits for the next flush.
    waiting: Vec<u8>,
}

#[derive(Default)]
struct Floor {
    rooms: RefCell<HashMap<String, Room>>,
    flushing: Cell<bool>,
    /// The messages that are replayed to a client that was away.
    replay: OnceCell<Vec<u8>>,
}

/// How the server behaves.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Whether, and for how long, messages are collected before they are written.
    pub flush: Option<Duration>,
    pub ping: Duration,
}

/// Serves forever on a free loopback port, which it prints.
pub async fn serve(manner: Manner) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let serving = async {
        let floor = Rc::new(Floor::default());
        loop {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            spawn_local(connection(floor.clone(), tcp, manner));
        }
    };
    LocalSet::new().run_until(serving).await
}

/// `/publish` sends `ROOM TEXT`, `/in/A,B` joins rooms, and `/replay/N` receives N messages at once.
async fn connection(floor: Rc<Floor>, mut tcp: TcpStream, manner: Manner) -> Option<()> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        tcp.read_buf(&mut head).await.ok().filter(|read| *read > 0)?;
    }
    let head = String::from_utf8(head).ok()?;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    tcp.write_all(answer.as_bytes()).await.ok()?;
    let path = head.split(' ').nth(1)?;
    if let Some(rooms) = path.strip_prefix("/in/") {
        member(&floor, Rc::new(tcp), rooms, manner).await;
    } else if let Some(count) = path.strip_prefix("/replay/") {
        let count = count.parse().ok()?;
        let texts =
            floor.replay.get_or_init(|| (1..=count).flat_map(|n| encode(&delivery("r", n, 0))).collect());
        tcp.write_all(texts).await.ok()?;
        // Runs until the client disconnects.
        while tcp.read(&mut [0; 16]).await.is_ok_and(|read| read > 0) {}
    } else {
        publisher(floor, tcp, manner).await;
    }
    None
}

async fn member(floor: &Floor, tcp: Rc<TcpStream>, rooms: &str, manner: Manner) {
    for room in rooms.split(',') {
        floor.rooms.borrow_mut().entry(room.to_owned()).or_default().members.push(tcp.clone());
    }
    let (mut bin, mut ping) = ([0; 256], interval(manner.ping));
    ping.tick().await;
    loop {
        tokio::select! {
            readable = tcp.readable() => match readable.and_then(|()| tcp.try_read(&mut bin)) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => break,
            },
            _ = ping.tick() => drop(tcp.try_write(&[FIN | PING, 0])),
        }
    }
    for room in rooms.split(',') {
        if let Some(room) = floor.rooms.borrow_mut().get_mut(room) {
            room.members.retain(|member| !Rc::ptr_eq(member, &tcp));
        }
    }
}

async fn publisher(floor: Rc<Floor>, mut tcp: TcpStream, manner: Manner) -> Option<()> {
    let mut came: Vec<u8> = vec![];
    loop {
        tcp.read_buf(&mut came).await.ok().filter(|read| *read > 0)?;
        let mut done = 0;
        // Masked with zeros, and never long enough to need a length of eight bytes.
        while let [_, length, rest @ ..] = &came[done..] {
            let (start, length) = match (length & 127, rest) {
                (126, [a, b, ..]) => (8, u16::from_be_bytes([*a, *b]) as usize),
                (126.., _) => break,
                (length, _) => (6, length as usize),
            };
            let Some(payload) = came.get(done + start..done + start + length) else { break };
            let (room, text) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
            publish(&floor, room, &encode(text), manner);
            done += start + length;
        }
        came.drain(..done);
    }
}

fn publish(floor: &Rc<Floor>, room: &str, frame: &[u8], manner: Manner) {
    let mut rooms = floor.rooms.borrow_mut();
    let Some(room) = rooms.get_mut(room) else { return };
    let Some(wait) = manner.flush else {
        return room.members.iter().for_each(|member| drop(member.try_write(frame)));
    };
    room.waiting.extend_from_slice(frame);
    if !floor.flushing.replace(true) {
        let floor = floor.clone();
        spawn_local(async move {
            sleep(wait).await;
            floor.flushing.set(false);
            for room in floor.rooms.borrow_mut().values_mut().filter(|room| !room.waiting.is_empty()) {
                let waiting = std::mem::take(&mut room.waiting);
                room.members.iter().for_each(|member| drop(member.try_write(&waiting)));
            }
        });
    }
}

/// A frame from a server.
fn encode(text: &str) -> Vec<u8> {
    let mut frame = framed(FIN | TEXT, text.as_bytes());
    // Without a mask.
    let mask = if text.len() < 126 { 2 } else { 4 };
    frame[1] &= 127;
    frame.drain(mask..mask + 4);
    frame
}

/// The same text as a node sends, for a message that was due at this time.
pub fn delivery(room: &str, offset: u64, at: u64) -> String {
    format!(
        r#"{{"type":"message","room":"{room}","offset":{offset},"time":1700000000000,"data":{}}}"#,
        data(at)
    )
}

/// The data that is published: 200 bytes.
pub fn data(at: u64) -> String {
    let mut data = format!(r#"{{"at":{at},"pair":"ETH-USD","value":50,"text":""#);
    data.extend(std::iter::repeat_n('x', 198_usize.saturating_sub(data.len())));
    data + r#""}"#
}
