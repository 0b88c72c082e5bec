//! Topics: names under which clients file payloads, so that several teams can share one ledger.

use borsh::{BorshDeserialize, BorshSerialize, io};
use std::{fmt, str::FromStr};

/// A topic: 1 to [`Topic::MAX_BYTES`] bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize)]
pub struct Topic(String);

/// Text that is not a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a topic has 1 to 64 bytes of UTF-8 without control characters")]
pub struct NotATopic;

impl Topic {
    /// The most bytes of a topic.
    pub const MAX_BYTES: usize = 64;

    /// Makes a topic of text.
    ///
    /// # Errors
    /// [`NotATopic`] if it is empty, too long, or holds a control character.
    pub fn new(text: impl Into<String>) -> Result<Self, NotATopic> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= Self::MAX_BYTES;
        if fits && !text.chars().any(char::is_control) { Ok(Self(text)) } else { Err(NotATopic) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = NotATopic;

    fn from_str(text: &str) -> Result<Self, NotATopic> {
        Self::new(text)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decoding accepts only text that [`Topic::new`] accepts.
impl BorshDeserialize for Topic {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let bytes = u32::deserialize_reader(reader)? as usize;
        if bytes > Self::MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, NotATopic.to_string()));
        }
        let mut text = vec![0; bytes];
        reader.read_exact(&mut text)?;
        String::from_utf8(text)
            .ok()
            .and_then(|text| Self::new(text).ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, NotATopic.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};

    #[test]
    fn only_topics_are_taken_and_read_back() {
        for good in ["a", "orders/eu", "Überweisungen", &"x".repeat(64)] {
            let topic = Topic::new(good).unwrap();
            assert_eq!(decode::<Topic>(&encode(&topic)).as_ref(), Ok(&topic));
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
        for bad in ["", "line\nfeed", "nul\0", &"x".repeat(65), &"ü".repeat(33)] {
            assert_eq!(Topic::new(bad), Err(NotATopic), "{bad:?}");
            assert!(decode::<Topic>(&encode(&bad.to_owned())).is_err(), "{bad:?}");
        }
        assert!(decode::<Topic>(&encode(&vec![0xFF_u8, 0xFE])).is_err(), "no UTF-8");
    }
}
