//! A socket between hyper and its caller: it fails when the reader does not read, puts a document
//! in the place of hyper's empty refusals, and lets a refused sender see its answer.

use crate::{exchange::Exchange, limits::Limits, refusal};
use bytes::{Buf, Bytes};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

/// What is read and thrown away of a refused request.
const LINGERED: usize = 4 << 20;

/// A connection over TCP.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

#[derive(Debug)]
pub(crate) struct Guarded<S: Socket> {
    inner: S,
    exchange: Arc<Exchange>,
    limits: Limits,
    /// When enough must have been read, and what was since it was set.
    deadline: Option<Pin<Box<Sleep>>>,
    moved: usize,
    /// How many requests had begun when everything was out and every one was answered whole.
    clean: Option<u64>,
    /// What goes out instead of hyper's head.
    instead: Option<Bytes>,
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: Socket> Guarded<S> {
    pub(crate) const fn new(inner: S, exchange: Arc<Exchange>, limits: Limits) -> Self {
        Self {
            inner,
            exchange,
            limits,
            deadline: None,
            moved: 0,
            clean: Some(0),
            instead: None,
            linger: None,
        }
    }

    /// Passes a result of the inner socket on, unless its reader is too slow.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.exchange.moved();
            return result;
        }
        self.exchange.stall();
        loop {
            let limit = self.limits.stall;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
            ready!(deadline.as_mut().poll(cx));
            if self.moved < self.limits.least {
                let why = "the reader does not read";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            self.moved = 0;
            deadline.as_mut().reset(Instant::now() + limit);
        }
    }

    fn write_inner(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        let written = ready!(self.watched(cx, result))?;
        self.moved = self.moved.saturating_add(written);
        Poll::Ready(Ok(written))
    }

    /// Whether hyper writes although the service was asked nothing since the last answer.
    fn speaks_for_itself(&self) -> bool {
        self.clean == Some(self.exchange.begun())
    }

    /// Writes `bytes`, or a document in their place.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.speaks_for_itself() && self.instead.is_none() {
            self.instead = refusal::of_parser(bytes);
            if self.instead.is_some() {
                self.exchange.refused();
            }
        }
        self.clean = None;
        while let Some(mut document) = self.instead.take() {
            match self.write_inner(cx, &document) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(written)) => document.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.instead = Some(document);
                    return Poll::Pending;
                }
            }
            if document.is_empty() {
                return Poll::Ready(Ok(bytes.len()));
            }
            self.instead = Some(document);
        }
        self.write_inner(cx, bytes)
    }
}

impl<S: Socket> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: Socket> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_some() || this.speaks_for_itself() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return this.write(cx, first.map_or(&[], |slice| slice));
        }
        this.clean = None;
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        let written = ready!(this.watched(cx, result))?;
        this.moved = this.moved.saturating_add(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_flush(cx);
        ready!(this.watched(cx, result))?;
        this.deadline = None;
        this.moved = 0;
        this.clean = this.exchange.between().then(|| this.exchange.begun());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let result = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.watched(cx, result))?;
            if this.exchange.is_whole() {
                return Poll::Ready(Ok(()));
            }
        }
        // Closing a socket with unread bytes resets it, and its sender might miss the answer.
        let limit = this.limits.linger;
        let (until, left) = this.linger.get_or_insert_with(|| (Box::pin(sleep(limit)), LINGERED));
        let mut space = [0; 8192];
        loop {
            if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer));
            let got = buffer.filled().len();
            if read.is_err() || got == 0 || got > *left {
                return Poll::Ready(Ok(()));
            }
            *left -= got;
        }
    }
}

impl<S: Socket> Drop for Guarded<S> {
    fn drop(&mut self) {
        // Bytes that nobody reads would stay with the system until the caller goes away.
        if self.exchange.is_stalled()
            && let Err(error) = self.inner.tcp().set_zero_linger()
        {
            tracing::trace!(%error, "a stalled connection was gone already");
        }
    }
}
