//! The ids of executed payloads that are still valid: what makes a payload take effect once.
//!
//! An id is kept while its `valid_until` is not before the newest record's time. Its first 16 bytes are enough: whoever
//! finds a collision hurts only payloads of his own.

use crate::{
    hash::Hash,
    ids::Sequence,
    mutants::mutant,
    payload::{Outcome, Payload, VALIDITY_WINDOW_MS},
};
use std::collections::{BTreeMap, HashMap};

type ShortId = [u8; 16];

#[derive(Debug, Default)]
pub(super) struct RecentIds {
    executed: HashMap<ShortId, Sequence>,
    by_second: BTreeMap<u64, Vec<ShortId>>,
}

impl RecentIds {
    /// What becomes of a payload that a decision of this sequence and time orders.
    pub(super) fn execute(&mut self, id: Hash, payload: &Payload, sequence: Sequence, time_ms: u64) -> Outcome {
        let valid_until = payload.valid_until_ms;
        if time_ms > valid_until {
            return Outcome::Expired;
        }
        if let Some(executed_at) = self.executed.get(&short(id)).filter(|_| !mutant!(PayloadTwice)) {
            return Outcome::Duplicate { executed_at: *executed_at };
        }
        if valid_until > time_ms.saturating_add(VALIDITY_WINDOW_MS) {
            return Outcome::Early;
        }
        self.remember(id, valid_until, sequence);
        Outcome::Executed
    }

    /// Notes an executed payload (also when read back from the store).
    pub(super) fn remember(&mut self, id: Hash, valid_until_ms: u64, sequence: Sequence) {
        let id = short(id);
        self.executed.insert(id, sequence);
        self.by_second.entry(valid_until_ms / 1000).or_default().push(id);
    }

    /// Forgets what can never execute again at or after `time_ms`.
    pub(super) fn forget_before(&mut self, time_ms: u64) {
        while let Some(bucket) = self.by_second.first_entry() {
            if *bucket.key() >= time_ms / 1000 {
                break;
            }
            for id in bucket.remove() {
                self.executed.remove(&id);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.executed.len()
    }
}

fn short(id: Hash) -> ShortId {
    let mut short = [0; 16];
    short.copy_from_slice(&id.0[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(valid_until_ms: u64) -> Payload {
        Payload { key: [0; 16], valid_until_ms, data: vec![1] }
    }

    #[test]
    fn a_payload_executes_once_within_its_window() {
        let mut recent = RecentIds::default();
        let id = Hash::of_bytes(b"a");
        let p = payload(100_000);
        assert_eq!(recent.execute(id, &p, Sequence(1), 39_999), Outcome::Early);
        assert_eq!(recent.execute(id, &p, Sequence(2), 40_000), Outcome::Executed);
        assert_eq!(recent.execute(id, &p, Sequence(3), 100_000), Outcome::Duplicate { executed_at: Sequence(2) });
        assert_eq!(recent.execute(id, &p, Sequence(4), 100_001), Outcome::Expired);
    }

    #[test]
    fn an_id_is_kept_exactly_while_it_could_execute_again() {
        let mut recent = RecentIds::default();
        let id = Hash::of_bytes(b"a");
        recent.execute(id, &payload(100_900), Sequence(1), 90_000);
        recent.forget_before(100_899);
        assert_eq!(recent.execute(id, &payload(100_900), Sequence(2), 100_899), Outcome::Duplicate { executed_at: Sequence(1) });
        recent.forget_before(101_000);
        assert_eq!(recent.len(), 0);
        assert_eq!(recent.execute(id, &payload(100_900), Sequence(3), 101_000), Outcome::Expired);
    }
}
