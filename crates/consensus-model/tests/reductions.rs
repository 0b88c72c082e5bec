//! The reductions lose nothing: with and without them the same sets of certificates come about.

use cretoai_consensus_model::mutation::Mutation;
use cretoai_consensus_model::view_change::{State, ViewChangeModel};
use cretoai_consensus_model::votes::{bits, origin};
use stateright::Model;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// The choice of liars, and for each view and sequence the origin of what is prepared and of what
/// is committed. An origin stands for its digest: of two digests of one origin at most one is ever
/// certified, which is asserted.
type Certificates = (u8, Vec<(u8, u8)>);

fn certificates(model: &ViewChangeModel, state: &State) -> Certificates {
    let committee = model.committee(state);
    let origins = |set: u8| {
        assert!(set.count_ones() <= 1, "two digests certified in one view");
        bits(set).fold(0u8, |all, digest| all | 1 << origin(digest))
    };
    let places = (0..committee.views)
        .flat_map(|view| (1..=committee.sequences).map(move |sequence| (view, sequence)));
    let found = places.map(|(view, sequence)| {
        let votes = &state.votes;
        (
            origins(votes.prepared(committee, view, sequence)),
            origins(votes.committed_in(committee, view, sequence)),
        )
    });
    for sequence in 1..=committee.sequences {
        let ever = (0..committee.views)
            .fold(0u8, |all, view| all | state.votes.prepared(committee, view, sequence));
        assert!(
            (0..committee.views).all(|view| (ever >> (2 * view) & 3) != 3),
            "two digests of one origin certified"
        );
    }
    (state.case, found.collect())
}

/// Every set of certificates that is reached, and the number of states.
fn reached(model: &ViewChangeModel) -> (HashSet<Certificates>, usize) {
    // Fingerprints are enough to know a state again, and take a twentieth of the memory.
    let hasher = RandomState::new();
    let mut pending = model.init_states();
    let mut seen: HashSet<u64> = pending.iter().map(|state| hasher.hash_one(state)).collect();
    let mut found = HashSet::new();
    while let Some(state) = pending.pop() {
        found.insert(certificates(model, &state));
        pending.extend(
            model.next_states(&state).into_iter().filter(|next| seen.insert(hasher.hash_one(next))),
        );
    }
    (found, seen.len())
}

fn assert_nothing_is_lost(members: u8, views: u8, sequences: u8) {
    let (reduced, few) = reached(&ViewChangeModel::new(members, views, sequences, Mutation::None));
    let (all, many) =
        reached(&ViewChangeModel::new(members, views, sequences, Mutation::None).unreduced());
    assert!(few * 2 < many, "{few} states of {many}");
    assert_eq!(reduced, all);
    assert!(all.len() > 50, "only {} sets of certificates", all.len());
}

#[test]
fn two_views_of_two_sequences() {
    assert_nothing_is_lost(4, 2, 2);
}

#[test]
fn three_views_of_one_sequence() {
    assert_nothing_is_lost(4, 3, 1);
}

#[test]
fn five_validators() {
    assert_nothing_is_lost(5, 2, 1);
}
