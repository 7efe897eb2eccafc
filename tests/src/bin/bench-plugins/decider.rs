//! An HTTP server in this process that makes the same decisions as the plugin, and one persistent connection
//! to it. It is the alternative to which plugins are compared.

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

pub struct Decider {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Decider {
    /// Starts the server on its own thread, which ends with this process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || serve(listener));
        Self { stream: BufReader::new(connect(address)), body: vec![] }
    }

    /// Makes one round trip, and returns the JSON answer.
    pub fn ask(&mut self, hook: &str, question: &Value) -> &[u8] {
        let question = question.to_string();
        let request = format!(
            "POST /{hook} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{question}",
            question.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("a connection that is kept");
        let (mut line, mut length) = (String::new(), 0);
        self.stream.read_line(&mut line).expect("an answer");
        assert!(line.starts_with("HTTP/1.1 200"), "{hook}: {line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).expect("a header");
            let header = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            length = header.map_or(length, |(_, value)| value.trim().parse().expect("a number"));
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).expect("a body");
        &self.body
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a listener");
    stream.set_nodelay(true).expect("TCP");
    stream
}

fn serve(listener: TcpListener) {
    listener.set_nonblocking(true).expect("a listener");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime for it");
    let router = Router::new()
        .route("/connect", post(async |Json(request): Json<Value>| Json(connects(&request))))
        .route("/room", post(async |Json(request): Json<Value>| Json(rooms(&request))))
        .route("/subscribe", post(async |Json(request): Json<Value>| Json(subscribes(&request))))
        .route("/publish", post(async |Json(request): Json<Value>| Json(publishes(&request))))
        .route("/deliver", post(async |Json(request): Json<Value>| Json(delivers(&request))));
    runtime.block_on(async {
        use axum::serve::ListenerExt;
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
        axum::serve(listener, router).await.ok();
    });
}

fn connects(request: &Value) -> Value {
    json!({"ok": request["principal"] != ""})
}

fn rooms(request: &Value) -> Value {
    json!({"canonical": request["room"].as_str().map(str::to_ascii_lowercase)})
}

fn subscribes(request: &Value) -> Value {
    match request["filter"]["g"].as_u64() {
        Some(group) => json!({"filter": {"g": group}}),
        None => json!({"reject": "a filter is required"}),
    }
}

fn publishes(request: &Value) -> Value {
    json!({"pass": request["data"]["n"].is_u64()})
}

/// Each request contains the filters, because the server keeps none. Otherwise it would have to be told of
/// every change.
fn delivers(request: &Value) -> Value {
    let (n, to) = (request["data"]["n"].as_u64().unwrap_or(0), request["data"]["to"].as_u64());
    let passes = |filter: &Value| {
        let group = filter["g"].as_u64().unwrap_or(0);
        to.map_or((group + n + 1).is_multiple_of(2), |to| to == group)
    };
    request["filters"].as_array().into_iter().flatten().map(passes).collect()
}
