//! How far the request of one connection is. The connection's task, its bodies and the table of
//! places share this.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Exchange {
    opened: Instant,
    /// Requests handed to the service.
    begun: AtomicU64,
    /// Answers that are with hyper whole.
    ended: AtomicU64,
    /// The body of the newest request has arrived whole.
    whole: AtomicBool,
    /// Milliseconds after `opened`, plus 1, at which the reader stopped reading; 0 while it reads.
    stalled: AtomicU64,
    pub(crate) evicted: Notify,
}

impl Exchange {
    pub(crate) fn new() -> Self {
        Self {
            opened: Instant::now(),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            whole: AtomicBool::new(false),
            stalled: AtomicU64::new(0),
            evicted: Notify::new(),
        }
    }

    pub(crate) fn begin(&self) {
        self.whole.store(false, Ordering::Release);
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn arrived(&self) {
        self.whole.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether every request so far has its whole answer with hyper.
    pub(crate) fn between(&self) -> bool {
        self.begun.load(Ordering::Acquire) == self.ended.load(Ordering::Acquire)
    }

    /// Whether nothing of the newest request is still to come.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// A refusal went out in place of an answer: the rest of the request is unread.
    pub(crate) fn refused(&self) {
        self.whole.store(false, Ordering::Release);
    }

    pub(crate) fn stall(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        // The first moment counts.
        let first =
            self.stalled.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        tracing::trace!(first, "a reader does not read");
    }

    pub(crate) fn moved(&self) {
        self.stalled.store(0, Ordering::Release);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire) != 0
    }

    /// Whether the place may go to another caller: no whole request is at work although its time
    /// of grace is over, or the answer has not been read for `patience`.
    pub(crate) fn gives_way(&self, grace: Duration, patience: Duration) -> bool {
        if self.between() || !self.is_whole() {
            return self.opened.elapsed() >= grace;
        }
        match self.stalled.load(Ordering::Acquire) {
            0 => false,
            since => self.opened.elapsed() >= Duration::from_millis(since) + patience,
        }
    }
}
