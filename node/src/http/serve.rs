//! The node's ports: their bounds, and what is counted when a caller is refused.

use crate::metrics::{Metrics, Port};
use axum::{Router, body::Body};
use cretoai_control::tls::refusal;
use cretoai_serve::{Arriving, Limits, Listener, Watch};
use hyper::Request;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;
use tower::ServiceExt;

pub use cretoai_serve::BindError as ServeError;

/// How long the head of a request for metrics or a probe may take.
const PROBE_HEAD_LIMIT: Duration = Duration::from_secs(2);

/// A bound port, not yet served.
pub struct Listening {
    listener: Listener,
    port: Port,
}

impl Listening {
    /// Binds `address`; `key` names the setting that chose it. An address of a caller has a quarter
    /// of the `connections`.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        address: SocketAddr,
        key: &'static str,
        port: Port,
        connections: usize,
    ) -> Result<Self, ServeError> {
        let limits = Limits::new(connections);
        let limits = match port {
            // One request to a connection.
            Port::Metrics => Limits { keep_alive: false, head: PROBE_HEAD_LIMIT, ..limits },
            Port::Client | Port::Control | Port::Quic => limits,
        };
        Self::bind_with(address, key, port, limits).await
    }

    /// The same with bounds of the caller's choice.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind_with(
        address: SocketAddr,
        key: &'static str,
        port: Port,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        Ok(Self { listener: Listener::bind(address, key, limits).await?, port })
    }

    /// Demands TLS with this configuration.
    #[must_use]
    pub fn with_tls(mut self, config: rustls::ServerConfig) -> Self {
        self.listener = self.listener.with_tls(config);
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
        closing: watch::Receiver<bool>,
    ) {
        let counted = Counted { metrics, port: self.port };
        let service = move |request: Request<Arriving>| {
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { answer.await.unwrap_or_else(|never| match never {}) }
        };
        self.listener.serve(service, Arc::new(counted), closing).await;
    }
}

struct Counted {
    metrics: Arc<Metrics>,
    port: Port,
}

impl Watch for Counted {
    fn refused(&self, reason: &'static str) {
        self.metrics.refused(self.port, reason);
    }

    fn why(&self, error: &io::Error) -> &'static str {
        error.get_ref().and_then(|inner| inner.downcast_ref()).map_or("handshake", refusal)
    }
}
