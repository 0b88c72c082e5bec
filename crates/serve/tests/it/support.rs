//! A small service on a real port, and callers of it.

use bytes::Bytes;
use cretoai_serve::{Arriving, Limits, Listener, Watch};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
};

/// The size of the answer to `GET /large`.
pub const LARGE: usize = 256 * 1024;

#[derive(Default)]
pub struct Counts(Mutex<HashMap<&'static str, usize>>);

impl Counts {
    pub fn of(&self, reason: &str) -> usize {
        self.0.lock().unwrap().get(reason).copied().unwrap_or_default()
    }
}

impl Watch for Counts {
    fn refused(&self, reason: &'static str) {
        *self.0.lock().unwrap().entry(reason).or_default() += 1;
    }
}

pub struct Served {
    pub at: SocketAddr,
    pub counts: Arc<Counts>,
    pub close: watch::Sender<bool>,
    pub ended: tokio::task::JoinHandle<()>,
}

async fn answer(request: Request<Arriving>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let (status, body) = match path.as_str() {
        "/large" => (StatusCode::OK, Bytes::from(vec![7; LARGE])),
        "/sleep" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            (StatusCode::OK, Bytes::from_static(b"slept"))
        }
        "/bad" => (StatusCode::BAD_REQUEST, Bytes::from_static(b"the service says no")),
        "/refuse" => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Bytes::from_static(b"not this")),
        _ => match request.into_body().collect().await {
            Ok(body) => (StatusCode::OK, body.to_bytes()),
            Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
        },
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

pub async fn serve(limits: Limits) -> Served {
    let listener = Listener::bind("0.0.0.0:0".parse().unwrap(), "the test", limits).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counts = Arc::new(Counts::default());
    let (close, closing) = watch::channel(false);
    let ended = tokio::spawn(listener.serve(answer, counts.clone(), closing));
    Served { at: SocketAddr::from(([127, 0, 0, 1], port)), counts, close, ended }
}

/// A connection from 127.0.0.`last`.
pub async fn connect(last: u8, to: SocketAddr, receive: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends bytes and reads until the end.
pub async fn ask(last: u8, to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(last, to, None).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("no answer within 20 s")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// An honest caller's request.
pub async fn honest(last: u8, to: SocketAddr) {
    let request =
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    let answer = ask(last, to, request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
}

/// Waits until `done`, at most 20 s.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come within 20 s");
}
