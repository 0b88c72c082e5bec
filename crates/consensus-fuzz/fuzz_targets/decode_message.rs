//! Whatever bytes come in a frame: they are one message in its one encoding, or an error.

#![no_main]

use cretoai_consensus::Message;
use cretoai_types::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode::<Message>(bytes) {
        assert_eq!(encode(&message), bytes);
    }
});
