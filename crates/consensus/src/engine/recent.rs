//! The ids of executed payloads that are still valid: what makes a payload take effect once.
//!
//! An id is kept while its `valid_until` is not before the newest record's time, to the second. Its
//! first 16 bytes are enough: whoever finds a collision hurts only payloads of his own. Of each
//! lane only a share is kept: a lane that has used up its own waits, and takes nothing from the
//! others. All of this follows from the chain alone.

use cretoai_types::{
    Hash, NodeId, Outcome, Payload, Sequence, VALIDITY_WINDOW_MS, mutants::mutant,
};
use std::collections::{BTreeMap, HashMap};

type ShortId = [u8; 16];

/// The executed payloads whose `valid_until` lies in one second.
#[derive(Debug, Default)]
struct Second {
    executed: HashMap<ShortId, Sequence>,
    by_author: BTreeMap<NodeId, u64>,
}

#[derive(Debug, Default)]
pub(super) struct RecentIds {
    seconds: BTreeMap<u64, Second>,
    by_author: BTreeMap<NodeId, u64>,
}

impl RecentIds {
    /// What becomes of a payload that a decision of this sequence and time orders, from a lane with
    /// this share.
    pub(super) fn execute(
        &mut self,
        author: NodeId,
        share: u64,
        id: Hash,
        payload: &Payload,
        sequence: Sequence,
        time_ms: u64,
    ) -> Outcome {
        let valid_until = payload.valid_until_ms;
        if time_ms > valid_until {
            return Outcome::Expired;
        }
        if let Some(executed_at) =
            self.executed_at(id, valid_until).filter(|_| !mutant!(PayloadTwice))
        {
            return Outcome::Duplicate { executed_at };
        }
        if valid_until > time_ms.saturating_add(VALIDITY_WINDOW_MS) {
            return Outcome::Early;
        }
        if self.by_author.get(&author).is_some_and(|used| *used >= share) && !mutant!(ShareIgnored)
        {
            return Outcome::Crowded;
        }
        self.remember(author, id, valid_until, sequence);
        Outcome::Executed
    }

    /// Where a payload took effect, if that is remembered.
    pub(super) fn executed_at(&self, id: Hash, valid_until_ms: u64) -> Option<Sequence> {
        self.seconds.get(&(valid_until_ms / 1000))?.executed.get(&short(id)).copied()
    }

    /// Notes an executed payload (also when read back from the store).
    pub(super) fn remember(
        &mut self,
        author: NodeId,
        id: Hash,
        valid_until_ms: u64,
        sequence: Sequence,
    ) {
        let second = self.seconds.entry(valid_until_ms / 1000).or_default();
        second.executed.insert(short(id), sequence);
        *second.by_author.entry(author).or_default() += 1;
        *self.by_author.entry(author).or_default() += 1;
    }

    /// Forgets what can never execute again at or after `time_ms`.
    pub(super) fn forget_before(&mut self, time_ms: u64) {
        while let Some(second) = self.seconds.first_entry() {
            if *second.key() >= time_ms / 1000 {
                break;
            }
            for (author, count) in second.remove().by_author {
                if let Some(used) = self.by_author.get_mut(&author) {
                    *used -= count;
                }
            }
        }
        self.by_author.retain(|_, used| *used > 0);
    }

    /// How much of its share a lane has used up for a decision at `time_ms`.
    pub(super) fn used_at(&self, author: NodeId, time_ms: u64) -> u64 {
        self.seconds
            .range(time_ms / 1000..)
            .filter_map(|(_, second)| second.by_author.get(&author))
            .sum()
    }

    pub(super) fn len(&self) -> usize {
        self.seconds.values().map(|second| second.executed.len()).sum()
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

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);

    fn payload(valid_until_ms: u64) -> Payload {
        Payload { key: [0; 16], valid_until_ms, topic: None, data: vec![1] }
    }

    #[test]
    fn a_payload_executes_once_within_its_window() {
        let mut recent = RecentIds::default();
        let id = Hash::of_bytes(b"a");
        let p = payload(100_000);
        let mut at = |sequence, time_ms| recent.execute(A, 10, id, &p, Sequence(sequence), time_ms);
        assert_eq!(at(1, 39_999), Outcome::Early);
        assert_eq!(at(2, 40_000), Outcome::Executed);
        assert_eq!(at(3, 100_000), Outcome::Duplicate { executed_at: Sequence(2) });
        assert_eq!(at(4, 100_001), Outcome::Expired);
    }

    #[test]
    fn an_id_is_kept_exactly_while_it_could_execute_again() {
        let mut recent = RecentIds::default();
        let id = Hash::of_bytes(b"a");
        let p = payload(100_900);
        recent.execute(A, 10, id, &p, Sequence(1), 90_000);
        recent.forget_before(100_899);
        assert_eq!(
            recent.execute(A, 10, id, &p, Sequence(2), 100_899),
            Outcome::Duplicate { executed_at: Sequence(1) }
        );
        recent.forget_before(101_000);
        assert_eq!(recent.len(), 0);
        assert_eq!(recent.execute(A, 10, id, &p, Sequence(3), 101_000), Outcome::Expired);
    }

    #[test]
    fn a_lane_that_used_up_its_share_waits_and_takes_nothing_from_the_others() {
        let mut recent = RecentIds::default();
        let ids: Vec<Hash> = (0..6_u8).map(|i| Hash::of_bytes(&[i])).collect();
        let (soon, late) = (payload(100_000), payload(110_000));
        let now = 90_000;
        assert_eq!(recent.execute(A, 2, ids[0], &soon, Sequence(1), now), Outcome::Executed);
        assert_eq!(recent.execute(A, 2, ids[1], &late, Sequence(1), now), Outcome::Executed);
        assert_eq!(recent.execute(A, 2, ids[2], &late, Sequence(1), now), Outcome::Crowded);
        assert_eq!(
            recent.execute(A, 2, ids[1], &late, Sequence(2), now),
            Outcome::Duplicate { executed_at: Sequence(1) }
        );
        assert_eq!(recent.execute(B, 2, ids[2], &late, Sequence(2), now), Outcome::Executed);
        assert_eq!(
            (recent.used_at(A, now), recent.used_at(A, 101_000), recent.used_at(B, now)),
            (2, 1, 1)
        );
        // A second later one of them can execute no more, and makes room.
        recent.forget_before(101_000);
        assert_eq!(recent.execute(A, 2, ids[3], &late, Sequence(3), 101_000), Outcome::Executed);
        assert_eq!(recent.execute(A, 2, ids[4], &late, Sequence(3), 101_000), Outcome::Crowded);
        recent.forget_before(111_000);
        assert_eq!((recent.len(), recent.by_author.len()), (0, 0));
    }
}
