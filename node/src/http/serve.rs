//! Accept loops: bounded, with time limits, and closed cleanly.

use crate::metrics::{Metrics, Port};
use axum::{Router, body::Body};
use cretoai_control::tls::refusal;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// How long a client may take to send the head of a request, and how long a connection may idle.
const HEAD_LIMIT: Duration = Duration::from_secs(20);
/// The same for metrics and probes, one request to a connection: idle strangers must not keep the
/// kubelet out, which would take the node for dead.
const PROBE_HEAD_LIMIT: Duration = Duration::from_secs(2);
/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// TLS handshakes in progress; each costs a signature before it is known who asks.
const MAX_HANDSHAKES: usize = 32;
/// How long requests at work may go on when the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// What hyper buffers per connection.
const BUFFER: usize = 32 * 1024;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("TCP {address} cannot be bound: {source}; is another node running here, or {key} taken?")]
pub struct ServeError {
    address: SocketAddr,
    key: &'static str,
    source: io::Error,
}

/// A bound port, not yet served.
pub struct Listening {
    listener: TcpListener,
    port: Port,
    /// Connections at a time; more wait in the system's backlog.
    connections: usize,
    tls: Option<TlsAcceptor>,
}

impl Listening {
    /// Binds `address`; `key` names the setting that chose it.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        address: SocketAddr,
        key: &'static str,
        port: Port,
        connections: usize,
    ) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ServeError {
            address,
            key,
            source,
        })?;
        Ok(Self { listener, port, connections, tls: None })
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

    /// Serves `router` until `closing` turns true, then lets requests at work finish for a while.
    pub async fn serve(
        self,
        router: Router,
        metrics: Arc<Metrics>,
        mut closing: watch::Receiver<bool>,
    ) {
        let places = Arc::new(Semaphore::new(self.connections));
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let mut open = JoinSet::new();
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
                self.listener.accept().await.map(|(stream, from)| (place, stream, from))
            };
            let (place, stream, from) = tokio::select! {
                accepted = accepted => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or the caller has gone already: neither is a
                        // reason to stop.
                        tracing::debug!(%error, port = ?self.port, "no connection accepted");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
                Some(_) = open.join_next() => continue,
                () = closed(&mut closing) => break,
            };
            let (router, metrics, tls, closing) =
                (router.clone(), metrics.clone(), self.tls.clone(), closing.clone());
            let (port, handshakes) = (self.port, handshakes.clone());
            open.spawn(async move {
                let _place = place;
                if let Err(error) = stream.set_nodelay(true) {
                    return tracing::debug!(%error, "a connection was gone before it was served");
                }
                match tls {
                    None => requests(stream, port, router, closing).await,
                    Some(tls) => {
                        let Ok(turn) = handshakes.try_acquire_owned() else {
                            return metrics.refused(port, "busy");
                        };
                        match handshake(tls, stream).await {
                            Ok(stream) => {
                                drop(turn);
                                requests(stream, port, router, closing).await;
                            }
                            Err(reason) => {
                                metrics.refused(port, reason);
                                tracing::debug!(%from, reason, "refused a connection");
                            }
                        }
                    }
                }
            });
        }
        drop(self.listener);
        let drained =
            tokio::time::timeout(DRAIN_LIMIT, async { while open.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(port = ?self.port, "requests were still at work after {} s and are cut off", DRAIN_LIMIT.as_secs());
        }
    }
}

async fn handshake(
    tls: TlsAcceptor,
    stream: TcpStream,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, &'static str> {
    match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            Err(error.get_ref().and_then(|inner| inner.downcast_ref()).map_or("handshake", refusal))
        }
        Err(_) => Err("timeout"),
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    port: Port,
    router: Router,
    mut closing: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            Ok::<_, Infallible>(
                router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}),
            )
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(port != Port::Metrics)
        .header_read_timeout(if port == Port::Metrics { PROBE_HEAD_LIMIT } else { HEAD_LIMIT })
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection broke");
    }
}

/// Resolves when the node stops; also when whoever would say so is gone.
async fn closed(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {}
}
