//! The accept loop of one port, and the life of one connection.

use crate::{
    body::{Arriving, Leaving},
    exchange::Exchange,
    guarded::{Guarded, Socket},
    limits::Limits,
    places::{Places, Seat, Taken},
    refusal,
};
use bytes::Bytes;
use http_body::Body;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use std::{convert::Infallible, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// How long accepting rests after an error.
const REST: Duration = Duration::from_millis(20);

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("TCP {address} cannot be bound: {source}; is another node running here, or {key} taken?")]
pub struct BindError {
    address: SocketAddr,
    key: &'static str,
    source: io::Error,
}

/// Counts the connections that are refused or closed early. Reasons are fixed words.
pub trait Watch: Send + Sync + 'static {
    /// `reason` is `share`, `busy`, `evicted`, `stalled`, `silent`, `timeout`, or what
    /// [`Self::why`] says.
    fn refused(&self, reason: &'static str);

    /// The word for a TLS handshake that failed.
    fn why(&self, _error: &io::Error) -> &'static str {
        "handshake"
    }
}

/// A bound port, not yet served.
pub struct Listener {
    listener: TcpListener,
    limits: Limits,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Binds `address`; `key` names the setting that chose it.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        address: SocketAddr,
        key: &'static str,
        limits: Limits,
    ) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|source| BindError {
            address,
            key,
            source,
        })?;
        Ok(Self { listener, limits, tls: None })
    }

    /// Demands TLS with this configuration.
    #[must_use]
    pub fn with_tls(mut self, config: rustls::ServerConfig) -> Self {
        self.tls = Some(TlsAcceptor::from(Arc::new(config)));
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `closing` turns true, then lets requests at work finish for a while.
    pub async fn serve<F, R, B>(
        self,
        service: F,
        watch: Arc<dyn Watch>,
        mut closing: watch::Receiver<bool>,
    ) where
        F: Fn(Request<Arriving>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<B>> + Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let places = Places::new(self.limits);
        let mut open = JoinSet::new();
        let mut failing = false;
        loop {
            let (stream, from) = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or the caller has gone already: neither is a
                        // reason to stop. One line tells of a row of them.
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "no connection could be accepted");
                        }
                        sleep(REST).await;
                        continue;
                    }
                },
                Some(_) = open.join_next() => continue,
                () = closed(&mut closing) => break,
            };
            failing = false;
            let seat = loop {
                match places.take(from.ip()) {
                    Taken::Seat(seat) => break Some(seat),
                    Taken::Share => {
                        watch.refused("share");
                        if self.tls.is_none() {
                            refuse(&stream);
                        }
                        break None;
                    }
                    Taken::Full => {}
                }
                // Every place is at work: this caller is the head of the queue, and the system's
                // backlog the rest of it.
                tokio::select! {
                    () = places.freed.notified() => {}
                    () = sleep(REST) => {}
                    () = closed(&mut closing) => break None,
                }
            };
            let Some(seat) = seat else { continue };
            let connection = Connection {
                limits: self.limits,
                tls: self.tls.clone(),
                watch: Arc::clone(&watch),
                closing: closing.clone(),
            };
            let service = service.clone();
            open.spawn(async move {
                let exchange = Arc::clone(&seat.exchange);
                let watch = Arc::clone(&connection.watch);
                tokio::select! {
                    () = connection.serve(stream, &seat, service) => {}
                    () = exchange.evicted.notified() => watch.refused("evicted"),
                }
                drop(seat);
            });
        }
        drop(self.listener);
        let drained =
            timeout(self.limits.drain, async { while open.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(
                "requests were still at work {} s after the port closed and are cut off",
                self.limits.drain.as_secs()
            );
        }
    }
}

/// Tells a caller without a place why. It may miss that, and then sees a closed connection.
fn refuse(stream: &TcpStream) {
    if let Err(error) = stream.try_write(&refusal::of_share()) {
        tracing::trace!(%error, "a refused caller was gone already");
    }
}

struct Connection {
    limits: Limits,
    tls: Option<TlsAcceptor>,
    watch: Arc<dyn Watch>,
    closing: watch::Receiver<bool>,
}

impl Connection {
    async fn serve<F, R, B>(self, stream: TcpStream, seat: &Seat, service: F)
    where
        F: Fn(Request<Arriving>) -> R + Send + Sync,
        R: Future<Output = Response<B>> + Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if let Err(error) = prepare(&stream, &self.limits) {
            return tracing::debug!(%error, "a connection was gone before it was served");
        }
        let Some(tls) = self.tls.clone() else {
            return self.requests(stream, seat, service).await;
        };
        // A handshake costs a signature; a caller that sends nothing does not get to one.
        let mut first = [0; 1];
        let spoke = timeout(self.limits.first_byte, stream.peek(&mut first)).await;
        if !matches!(spoke, Ok(Ok(1))) {
            return self.watch.refused("silent");
        }
        let Some(turn) = seat.handshake() else { return self.watch.refused("busy") };
        match timeout(self.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                drop(turn);
                self.requests(stream, seat, service).await;
            }
            Ok(Err(error)) => self.watch.refused(self.watch.why(&error)),
            Err(_) => self.watch.refused("timeout"),
        }
    }

    async fn requests<F, R, B>(mut self, stream: impl Socket, seat: &Seat, service: F)
    where
        F: Fn(Request<Arriving>) -> R + Send + Sync,
        R: Future<Output = Response<B>> + Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let limits = self.limits;
        let caller = seat.caller;
        let exchange = &seat.exchange;
        let service = service_fn(|request: Request<Incoming>| {
            let exchange = Arc::clone(exchange);
            let mut request = request.map(|body| Arriving::new(body, Arc::clone(&exchange)));
            request.extensions_mut().insert(caller);
            let answer = service(request);
            async move { Ok::<_, Infallible>(leave(answer.await, exchange)) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(limits.keep_alive)
            .header_read_timeout(limits.head)
            .max_buf_size(limits.buffer)
            .serve_connection(
                TokioIo::new(Guarded::new(stream, Arc::clone(exchange), limits)),
                service,
            );
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closed(&mut self.closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = sleep(limits.age) => {
                connection.as_mut().graceful_shutdown();
                match timeout(limits.overtime, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return self.watch.refused("timeout"),
                }
            }
        };
        if let Err(error) = ended {
            let stalled = error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>())
                .is_some_and(|source| source.kind() == io::ErrorKind::TimedOut);
            if stalled {
                self.watch.refused("stalled");
            } else if error.is_timeout() {
                self.watch.refused("silent");
            }
            tracing::debug!(%error, "a client's connection broke");
        }
    }
}

/// An answer to a request that did not arrive whole is the last one on its connection, and says so.
fn leave<B>(mut answer: Response<B>, exchange: Arc<Exchange>) -> Response<Leaving<B>> {
    if !exchange.is_whole() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer.map(|body| Leaving::new(body, exchange))
}

fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(limits.send_buffer)?;
    // Also for what the system still holds after the connection is closed.
    socket.set_tcp_user_timeout(Some(limits.stall))
}

/// Resolves when the port closes, also when its owner is gone.
async fn closed(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {}
}
