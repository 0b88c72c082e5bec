//! The end of a process for which going on would be unsafe: what was promised might be forgotten, or
//! the chain has diverged. A restart begins from what is durable.

use crate::logging;
use std::time::Duration;

/// How long the last line of the log may take.
const LAST_WORD: Duration = Duration::from_millis(200);

/// Ends the process at once, by SIGKILL: an ordinary exit runs RocksDB's destructors, which wait
/// for compactions and, on a disk that hangs, for ever.
pub(super) fn stop_for_safety(reason: &str) -> ! {
    tracing::error!(reason, "stopping for safety");
    logging::flush(LAST_WORD);
    let killed =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    if let Err(error) = killed {
        tracing::error!(%error, "this process cannot kill itself");
    }
    std::process::abort()
}

/// Runs the work of a thread that the node cannot do without. A panic in it ends the process, which
/// would look alive otherwise.
pub(super) fn or_stop(name: &str, work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        stop_for_safety(&format!("the thread {name} panicked"));
    }
}
