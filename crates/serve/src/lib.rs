//! HTTP/1.1 served to strangers, with or without TLS.
//!
//! The rule: a caller cannot keep what others need. Connections have places, and an address has at
//! most its share of them; a full port closes the oldest connection that has no request at work;
//! heads, handshakes, writes and whole connections have time limits; what an answer waits for is
//! given back when its reader does not read. A refusal is an HTTP answer that its sender can read.

mod body;
mod budget;
mod exchange;
mod guarded;
mod limits;
mod listener;
mod places;
mod refusal;

pub use body::{Arriving, Leaving};
pub use budget::{Budget, Charge};
pub use limits::Limits;
pub use listener::{BindError, Listener, Watch};
pub use places::Caller;
