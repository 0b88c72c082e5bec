//! What `w` nodes agree on (protocol: weak quorum, f+1 at n = 3f+1): among any `w` nodes at least
//! one is honest while at most `w - 1` lie, so a smaller number can never make us believe something
//! about the chain.

use crate::account::Account;
use cretoai_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// As many records of one node are compared at most.
const MAX_CLAIMS: usize = 65;

/// What `w` nodes agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// The newest sequence whose chain hash `w` nodes report.
    pub head: Option<Head>,
    /// Epoch, view and leader that `w` nodes report.
    pub term: Option<Term>,
    /// Nodes whose chain hash at some sequence is not the one that `w` others report.
    pub dissenters: BTreeSet<NodeId>,
    /// `w` nodes each report two different chain hashes for this sequence: more nodes are faulty
    /// than the chain tolerates. Then nothing is believed.
    pub divided_at: Option<u64>,
}

/// A place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its sequence.
    pub sequence: u64,
    /// Its chain hash.
    pub chain_hash: String,
}

/// The leader of a view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// The epoch.
    pub epoch: u64,
    /// The view.
    pub view: u64,
    /// Its leader's name.
    pub leader: Option<String>,
}

/// Compares `accounts`, each from a distinct member of one chain that proved its key.
#[must_use]
pub fn agree(accounts: &BTreeMap<NodeId, &Account>, w: usize) -> Agreement {
    let mut claims: BTreeMap<u64, BTreeMap<&str, BTreeSet<NodeId>>> = BTreeMap::new();
    for (id, account) in accounts {
        // One claim a node and sequence: a node that contradicts itself counts for its newest word
        // alone.
        let mut own: BTreeMap<u64, &str> = BTreeMap::new();
        for (sequence, chain_hash) in &account.recent {
            own.insert(*sequence, chain_hash);
        }
        own.insert(account.sequence, &account.chain_hash);
        for (sequence, hash) in own.into_iter().rev().take(MAX_CLAIMS) {
            claims.entry(sequence).or_default().entry(hash).or_default().insert(*id);
        }
    }
    let mut agreement = Agreement::default();
    for (sequence, hashes) in &claims {
        let mut believed = hashes.iter().filter(|(_, nodes)| nodes.len() >= w);
        let Some((hash, nodes)) = believed.next() else { continue };
        if believed.next().is_some() {
            agreement.divided_at.get_or_insert(*sequence);
            continue;
        }
        agreement.head = Some(Head { sequence: *sequence, chain_hash: (*hash).to_string() });
        agreement.dissenters.extend(hashes.values().flatten().filter(|id| !nodes.contains(*id)));
    }
    let mut terms: BTreeMap<Term, usize> = BTreeMap::new();
    for account in accounts.values() {
        let (epoch, view) = (account.epoch, account.view);
        *terms.entry(Term { epoch, view, leader: account.leader.clone() }).or_default() += 1;
    }
    agreement.term =
        terms.into_iter().filter(|(_, count)| *count >= w).map(|(term, _)| term).next_back();
    if agreement.divided_at.is_some() {
        return Agreement { divided_at: agreement.divided_at, ..Agreement::default() };
    }
    agreement
}

/// What `w` of `accounts` say alike: whether the chain holds proof of violations of the member
/// `name`. Nothing if neither answer has `w` voices: nodes that are behind have not executed the
/// proof yet, and liars never say it.
#[must_use]
pub fn suspects(accounts: &BTreeMap<NodeId, &Account>, w: usize, name: &str) -> Option<bool> {
    let accuses = |account: &&&Account| account.suspected.iter().any(|suspect| suspect == name);
    let accusers = accounts.values().filter(accuses).count();
    if accusers >= w {
        return Some(true);
    }
    (accounts.len() - accusers >= w).then_some(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::account::Role;
    use proptest::prelude::*;

    /// A node's account: its chain hashes are `family-sequence`.
    fn account(sequence: u64, family: &str) -> Account {
        let hash = |sequence: u64| format!("{family}-{sequence}");
        Account {
            role: Role::Validator,
            chain: None,
            epoch: 0,
            view: 0,
            leader: Some("a".into()),
            sequence,
            chain_hash: hash(sequence),
            recent: (sequence.saturating_sub(63).max(1)..=sequence)
                .map(|at| (at, hash(at)))
                .collect(),
            suspected: Vec::new(),
            hears: Vec::new(),
            ready: true,
            waits_for: String::new(),
            version: "1".into(),
        }
    }

    fn keyed(accounts: &[Account]) -> BTreeMap<NodeId, &Account> {
        (0..).map(NodeId).zip(accounts).collect()
    }

    fn agreement(accounts: &[Account], w: usize) -> Agreement {
        agree(&keyed(accounts), w)
    }

    #[test]
    fn nodes_at_different_sequences_are_compared_by_their_recent_records() {
        let accounts = [account(100, "h"), account(97, "h"), account(99, "h"), account(3, "h")];
        let result = agreement(&accounts, 2);
        assert_eq!(result.head.unwrap().sequence, 99);
        assert!(result.dissenters.is_empty());
    }

    #[test]
    fn one_of_four_can_make_us_believe_nothing() {
        let mut liar = account(1_000_000, "lie");
        (liar.view, liar.leader) = (77, Some("d".into()));
        let accounts = [account(10, "h"), account(10, "h"), account(9, "h"), liar];
        let result = agreement(&accounts, 2);
        assert_eq!(result.head.unwrap(), Head { sequence: 10, chain_hash: "h-10".into() });
        assert_eq!(result.term.unwrap().view, 0);
    }

    #[test]
    fn a_dissenter_is_named() {
        let accounts = [account(10, "h"), account(10, "h"), account(10, "h"), account(10, "lie")];
        let result = agreement(&accounts, 2);
        assert_eq!(result.dissenters, BTreeSet::from([NodeId(3)]));
        assert_eq!(result.head.unwrap().chain_hash, "h-10");
    }

    #[test]
    fn fewer_than_w_accounts_say_nothing() {
        assert_eq!(agreement(&[account(10, "h")], 2), Agreement::default());
        assert_eq!(agreement(&[], 1), Agreement::default());
    }

    #[test]
    fn a_division_beyond_the_tolerance_is_seen_and_nothing_believed() {
        let accounts = [account(10, "x"), account(10, "x"), account(10, "y"), account(10, "y")];
        let result = agreement(&accounts, 2);
        assert!(result.divided_at.is_some());
        assert_eq!((result.head, result.term), (None, None));
    }

    #[test]
    fn a_suspicion_needs_w_voices_and_so_does_its_end() {
        let voice = |suspected: &[&str]| {
            let suspected = suspected.iter().map(ToString::to_string).collect();
            Account { suspected, ..account(10, "h") }
        };
        let told = |voices: &[Account]| suspects(&keyed(voices), 2, "d");
        let (a, b, c, d) = (voice(&["d"]), voice(&["d", "d"]), voice(&[]), voice(&["a"]));
        assert_eq!(told(&[a.clone(), b, c.clone(), d.clone()]), Some(true));
        let one = [a.clone(), c.clone(), d.clone()];
        assert_eq!(told(&one), Some(false), "one accuser may be a liar");
        assert_eq!(told(&[a, d]), None, "a suspect cannot clear itself");
        assert_eq!(told(&[c]), None);
    }

    proptest! {
        /// Whatever `w - 1` nodes say, what is believed is what an honest node said.
        #[test]
        fn what_is_believed_was_said_by_an_honest_node(
            n in 1_usize..=10,
            honest in prop::collection::vec(1_u64..200, 10),
            lies in prop::collection::vec((0_u64..300, 0_u8..3), 10),
        ) {
            let quorum = cretoai_types::Quorum::new(n, cretoai_types::FaultModel::Byzantine);
            let liars = quorum.w - 1;
            let accounts: Vec<Account> = (0..n).map(|i| {
                if i < liars { account(lies[i].0, &format!("lie{}", lies[i].1)) }
                else { account(honest[i], "h") }
            }).collect();
            let result = agreement(&accounts, quorum.w);
            prop_assert_eq!(result.divided_at, None);
            if let Some(head) = result.head {
                prop_assert_eq!(&head.chain_hash, &format!("h-{}", head.sequence));
                prop_assert!(head.sequence <= honest[liars..n].iter().copied().max().unwrap_or(0));
            }
            for dissenter in &result.dissenters {
                prop_assert!((dissenter.0 as usize) < liars, "an honest node is never named");
            }
        }
    }
}
