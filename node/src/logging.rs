//! The log, written by a thread of its own.
//!
//! The rule: logging never blocks, and never ends anything. A line for which there is no room is
//! dropped and counted, and so is one that nobody can take: stderr closed, its disk full, its
//! reader stopped.

use std::{
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const WAITING: usize = 4096;
/// The longest line.
const MAX_LINE: usize = 64 * 1024;

enum Job {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where lines go. The first one that was installed is the process's.
static LOG: OnceLock<Log> = OnceLock::new();

/// The end of the log into which lines are put.
#[derive(Clone)]
pub struct Log {
    jobs: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Starts the thread that writes to `to`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn to(mut to: impl Write + Send + 'static) -> io::Result<Self> {
        let (jobs, lines) = mpsc::sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("creto-log".into()).spawn(move || {
            for job in lines {
                match job {
                    Job::Line(line) => {
                        if to.write_all(&line).and_then(|()| to.flush()).is_err() {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Job::Flush(done) => {
                        if done.try_send(()).is_err() {
                            // The thread that asked gave up.
                        }
                    }
                }
            }
        })?;
        Ok(Self { jobs, dropped })
    }

    /// How many lines were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was logged is written, at most so long.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = mpsc::sync_channel(1);
        let asked = self.jobs.try_send(Job::Flush(done)).is_ok();
        if asked && written.recv_timeout(limit).is_err() {
            // The reader of the log stopped: nothing more can be done.
        }
    }
}

/// Makes `log` the process's.
pub fn install(log: &Log) {
    if LOG.set(log.clone()).is_err() {
        tracing::warn!("the log was set up twice; the first one stays");
    }
}

/// Lines of the process's log that were dropped.
pub fn dropped() -> u64 {
    LOG.get().map_or(0, Log::dropped)
}

/// Waits until the process's log is written, at most so long.
pub fn flush(limit: Duration) {
    if let Some(log) = LOG.get() {
        log.flush(limit);
    }
}

impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let kept = line.get(..MAX_LINE).unwrap_or(line);
        match self.jobs.try_send(Job::Line(kept.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::sync::Mutex;

    /// Takes nothing until it is let go.
    struct Stuck(Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stopped_costs_lines_and_stops_nobody() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Log::to(Stuck(Arc::clone(&written))).unwrap();
        let held = written.lock().unwrap();
        for _ in 0..WAITING + 100 {
            writeln!(&log, "a line").unwrap();
        }
        // One line may be on its way to the reader.
        assert!((99..=100).contains(&log.dropped()), "{}", log.dropped());
        log.flush(Duration::from_millis(10));
        drop(held);
        while !String::from_utf8(written.lock().unwrap().clone()).unwrap().contains("the last") {
            writeln!(&log, "the last").unwrap();
            log.flush(Duration::from_secs(10));
        }
    }

    #[test]
    fn a_closed_log_counts_what_it_loses() {
        let log = Log::to(Closed).unwrap();
        writeln!(&log, "a line").unwrap();
        log.flush(Duration::from_secs(10));
        assert_eq!(log.dropped(), 1);
    }
}
