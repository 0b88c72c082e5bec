//! The sizes of quorums for a number of validators. Safety rests on two properties of them, which a
//! test checks for every size: two quorums share an honest node, and a weak quorum has one.

use borsh::{BorshDeserialize, BorshSerialize};

/// The most validators a chain can have.
pub const MAX_MEMBERS: usize = 31;

/// The assumption about faulty nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum FaultModel {
    /// Faulty nodes may do anything, including lies to different nodes.
    Byzantine,
    /// Faulty nodes only stop. This model is for at most 3 validators and tolerates no lie.
    Crash,
}

/// The counts that follow from the number of validators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The number of validators.
    pub n: usize,
    /// The number that may be faulty; under [`FaultModel::Crash`], silent.
    pub f: usize,
    /// The size of a quorum. Any two quorums share an honest node.
    pub q: usize,
    /// The size of a weak quorum, 2q - n, of which at least one node is honest. A claim without a
    /// certificate is believed only from a weak quorum.
    pub w: usize,
}

impl Quorum {
    /// The counts for `n` validators.
    #[must_use]
    pub const fn new(n: usize, model: FaultModel) -> Self {
        match model {
            FaultModel::Byzantine => {
                let f = n.saturating_sub(1) / 3;
                let q = n - f;
                Self { n, f, q, w: 2 * q - n }
            }
            FaultModel::Crash => {
                let q = n / 2 + 1;
                Self { n, f: n - q, q, w: 1 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_those_of_the_protocol_page() {
        for (n, f, q, w) in [
            (1, 0, 1, 1),
            (3, 0, 3, 3),
            (4, 1, 3, 2),
            (5, 1, 4, 3),
            (6, 1, 5, 4),
            (7, 2, 5, 3),
            (10, 3, 7, 4),
            (31, 10, 21, 11),
        ] {
            assert_eq!(Quorum::new(n, FaultModel::Byzantine), Quorum { n, f, q, w });
        }
        assert_eq!(Quorum::new(3, FaultModel::Crash), Quorum { n: 3, f: 1, q: 2, w: 1 });
        assert_eq!(Quorum::new(1, FaultModel::Crash), Quorum { n: 1, f: 0, q: 1, w: 1 });
    }

    #[test]
    fn quorums_intersect_in_an_honest_node_and_a_weak_quorum_holds_one() {
        for n in 1..=31 {
            let Quorum { f, q, w, .. } = Quorum::new(n, FaultModel::Byzantine);
            assert!(2 * q > n + f, "n = {n}");
            assert!(q + f <= n, "n = {n}: the honest alone make progress");
            assert!(w > f, "n = {n}");
        }
    }
}
