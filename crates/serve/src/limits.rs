//! The bounds of one port.

use std::time::Duration;

/// What callers of one port may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time, all addresses together.
    pub places: usize,
    /// Connections at a time of one address (IPv6: of one /64).
    pub share: usize,
    /// How long a new connection keeps its place although it has no request yet.
    pub grace: Duration,
    /// Whether a connection may carry more than one request.
    pub keep_alive: bool,
    /// How long the head of a request may take, and how long a connection may idle.
    pub head: Duration,
    /// How long a connection with TLS may send nothing at all.
    pub first_byte: Duration,
    /// How long a TLS handshake may take once its first byte is there.
    pub handshake: Duration,
    /// TLS handshakes at a time; an address has at most a quarter of them.
    pub handshakes: usize,
    /// A reader must take [`Self::least`] bytes, or all that is left, in each such span.
    pub stall: Duration,
    /// See [`Self::stall`].
    pub least: usize,
    /// The age at which a connection is closed after the request at work.
    pub age: Duration,
    /// How long that request may go on.
    pub overtime: Duration,
    /// How long the rest of a refused request is read, so that its sender sees the answer.
    pub linger: Duration,
    /// What is buffered per connection when heads are read.
    pub buffer: usize,
    /// What the system buffers per connection for its reader.
    pub send_buffer: usize,
    /// How long requests at work may go on when the port closes.
    pub drain: Duration,
}

impl Limits {
    /// Bounds for this many connections; a quarter of them for one address.
    #[must_use]
    pub const fn new(places: usize) -> Self {
        Self {
            places,
            share: if places < 4 { 1 } else { places / 4 },
            grace: Duration::from_millis(100),
            keep_alive: true,
            head: Duration::from_secs(20),
            first_byte: Duration::from_secs(1),
            handshake: Duration::from_secs(3),
            handshakes: 32,
            stall: Duration::from_secs(10),
            least: 16 * 1024,
            age: Duration::from_secs(600),
            overtime: Duration::from_secs(90),
            linger: Duration::from_secs(1),
            buffer: 32 * 1024,
            send_buffer: 64 * 1024,
            drain: Duration::from_secs(2),
        }
    }
}
