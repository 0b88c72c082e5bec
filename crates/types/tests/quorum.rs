//! Counts, leaders and lane positions for every number of validators that the protocol knows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Key;
use cretoai_types::{Epoch, FaultModel, MAX_MEMBERS, Member, NodeId, Quorum, Validators, View};
use proptest::{prelude::*, sample::subsequence};
use std::collections::BTreeSet;

/// Validators as reconfigurations leave them: ids ascend, with gaps.
fn validators() -> impl Strategy<Value = Validators> {
    (1..=MAX_MEMBERS, any::<u32>()).prop_flat_map(|(n, first)| {
        subsequence((0..200).collect::<Vec<u32>>(), n).prop_map(move |ids| {
            let member = |id: u32| Member {
                id: NodeId(id),
                name: format!("m-{id}"),
                key: Key::member(id).0,
                since: Epoch(0),
            };
            Validators {
                members: ids.iter().copied().map(member).collect(),
                next_id: NodeId(200),
                first: first % ids.len() as u32,
                ..common::validators(1)
            }
        })
    })
}

fn subset_of(n: usize, size: usize) -> impl Strategy<Value = BTreeSet<usize>> {
    subsequence((0..n).collect::<Vec<_>>(), size).prop_map(|members| members.into_iter().collect())
}

/// n, and of its members two quorums, the faulty, and a weak quorum.
#[derive(Clone, Debug)]
struct Sets {
    quorum: Quorum,
    quorums: [BTreeSet<usize>; 2],
    faulty: BTreeSet<usize>,
    weak: BTreeSet<usize>,
}

fn sets() -> impl Strategy<Value = Sets> {
    (1..=MAX_MEMBERS).prop_flat_map(|n| {
        let quorum = Quorum::new(n, FaultModel::Byzantine);
        (
            subset_of(n, quorum.q),
            subset_of(n, quorum.q),
            subset_of(n, quorum.f),
            subset_of(n, quorum.w),
        )
            .prop_map(move |(a, b, faulty, weak)| Sets {
                quorum,
                quorums: [a, b],
                faulty,
                weak,
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_quorums_share_an_honest_member_and_so_does_a_weak_quorum_with_all(sets in sets()) {
        let Sets { quorum, quorums: [a, b], faulty, weak } = sets;
        let shared: BTreeSet<usize> = a.intersection(&b).copied().collect();
        prop_assert!(shared.len() >= quorum.w, "two quorums share a weak quorum");
        prop_assert!(shared.difference(&faulty).next().is_some());
        prop_assert!(weak.difference(&faulty).next().is_some());
        let honest = quorum.n - faulty.len();
        prop_assert!(honest >= quorum.q, "the honest alone make progress");
        prop_assert!(weak.len() <= quorum.q);
    }

    #[test]
    fn each_member_leads_one_of_n_views_in_a_row_in_the_order_of_the_ids(set in validators(), from: u64) {
        let n = set.members.len() as u64;
        let from = from.min(u64::MAX - n);
        let leaders: Vec<NodeId> = (from..from + n).map(|view| set.leader(View(view))).collect();
        prop_assert_eq!(leaders.iter().copied().collect::<BTreeSet<_>>(), set.ids().collect::<BTreeSet<_>>());
        let descents = leaders.windows(2).filter(|pair| pair[0] >= pair[1]).count();
        prop_assert!(descents <= 1, "{:?}", leaders);
        prop_assert_eq!(Some(set.leader(View(0))), set.id_at(set.first as usize));
        for (view, leader) in (from..).zip(&leaders) {
            prop_assert_eq!(view.checked_add(n).map(|view| set.leader(View(view))).unwrap_or(*leader), *leader);
        }
        prop_assert!(set.position(set.leader(View(u64::MAX))).is_some());
    }

    #[test]
    fn a_position_is_that_of_the_id_among_the_members(set in validators(), stranger: u32) {
        for (position, id) in set.ids().enumerate() {
            prop_assert_eq!(set.position(id), Some(position));
            prop_assert_eq!(set.id_at(position), Some(id));
            let member = set.member(id).unwrap();
            prop_assert_eq!(set.by_key(&member.key), Some(member));
        }
        prop_assert_eq!(set.id_at(set.members.len()), None);
        prop_assert_eq!(set.position(NodeId(stranger)).is_some(), set.ids().any(|id| id == NodeId(stranger)));
        prop_assert_eq!(set.by_key(&Key::admin().0), None);
    }
}

#[test]
fn the_crash_model_takes_a_majority_and_believes_everyone() {
    for (n, f, q) in [(1, 0, 1), (2, 0, 2), (3, 1, 2)] {
        assert_eq!(Quorum::new(n, FaultModel::Crash), Quorum { n, f, q, w: 1 });
    }
}
