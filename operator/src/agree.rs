//! What `w` nodes agree on (protocol: weak quorum, f+1 at n = 3f+1): among any `w` nodes at least
//! one is honest while at most `w - 1` lie, so a smaller number can never make us believe something
//! about the chain.

use cretoai_control::api::NodeStatus;
use std::collections::{BTreeMap, BTreeSet};

/// What `w` nodes agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// The newest sequence whose chain hash `w` nodes report.
    pub head: Option<Head>,
    /// Epoch, view and leader that `w` nodes report.
    pub term: Option<Term>,
    /// Nodes whose chain hash at some sequence is not the one that `w` others report.
    pub dissenters: BTreeSet<String>,
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

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// The epoch.
    pub epoch: u64,
    /// The view.
    pub view: u64,
    /// Its leader.
    pub leader: Option<String>,
}

/// Compares `reports`, each from a distinct member of one chain that proved its key.
#[must_use]
pub fn agree(reports: &BTreeMap<String, &NodeStatus>, w: usize) -> Agreement {
    let mut claims: BTreeMap<u64, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for (name, report) in reports {
        // One claim a node and sequence: a node that contradicts itself counts for its newest word
        // alone.
        let mut own: BTreeMap<u64, &str> = BTreeMap::new();
        for record in &report.recent {
            own.insert(record.sequence, &record.chain_hash);
        }
        own.insert(report.sequence, &report.chain_hash);
        for (sequence, hash) in own.into_iter().rev().take(65) {
            claims.entry(sequence).or_default().entry(hash).or_default().insert(name);
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
        let others = hashes.values().flatten().filter(|name| !nodes.contains(*name));
        agreement.dissenters.extend(others.map(|name| (*name).to_string()));
    }
    let mut terms: BTreeMap<Term, usize> = BTreeMap::new();
    for report in reports.values() {
        *terms
            .entry(Term { epoch: report.epoch, view: report.view, leader: report.leader.clone() })
            .or_default() += 1;
    }
    agreement.term =
        terms.into_iter().filter(|(_, count)| *count >= w).map(|(term, _)| term).next_back();
    if agreement.divided_at.is_some() {
        return Agreement { divided_at: agreement.divided_at, ..Agreement::default() };
    }
    agreement
}

/// What `w` of `reports` say alike: whether the chain holds proof of violations of the member
/// `name`. Nothing if neither answer has `w` voices: nodes that are behind have not executed the
/// proof yet, and liars never say it.
#[must_use]
pub fn suspects(reports: &BTreeMap<String, &NodeStatus>, w: usize, name: &str) -> Option<bool> {
    let accusers = reports
        .values()
        .filter(|report| report.suspected.iter().any(|suspect| suspect == name))
        .count();
    if accusers >= w {
        return Some(true);
    }
    (reports.len() - accusers >= w).then_some(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::report;
    use proptest::prelude::*;

    fn agreement(reports: &[NodeStatus], w: usize) -> Agreement {
        agree(&reports.iter().map(|report| (report.name.clone(), report)).collect(), w)
    }

    #[test]
    fn nodes_at_different_sequences_are_compared_by_their_recent_records() {
        let reports = [
            report("a", 100, "h"),
            report("b", 97, "h"),
            report("c", 99, "h"),
            report("d", 3, "h"),
        ];
        let result = agreement(&reports, 2);
        assert_eq!(result.head.unwrap().sequence, 99);
        assert!(result.dissenters.is_empty());
    }

    #[test]
    fn one_of_four_can_make_us_believe_nothing() {
        let mut liar = report("d", 1_000_000, "lie");
        (liar.view, liar.leader) = (77, Some("d".into()));
        let reports = [report("a", 10, "h"), report("b", 10, "h"), report("c", 9, "h"), liar];
        let result = agreement(&reports, 2);
        assert_eq!(result.head.unwrap(), Head { sequence: 10, chain_hash: "h-10".into() });
        assert_eq!(result.term.unwrap().view, 0);
    }

    #[test]
    fn a_dissenter_is_named() {
        let reports = [
            report("a", 10, "h"),
            report("b", 10, "h"),
            report("c", 10, "h"),
            report("d", 10, "lie"),
        ];
        let result = agreement(&reports, 2);
        assert_eq!(result.dissenters, BTreeSet::from(["d".to_string()]));
        assert_eq!(result.head.unwrap().chain_hash, "h-10");
    }

    #[test]
    fn fewer_than_w_reports_say_nothing() {
        assert_eq!(agreement(&[report("a", 10, "h")], 2), Agreement::default());
        assert_eq!(agreement(&[], 1), Agreement::default());
    }

    #[test]
    fn a_division_beyond_the_tolerance_is_seen_and_nothing_believed() {
        let reports = [
            report("a", 10, "x"),
            report("b", 10, "x"),
            report("c", 10, "y"),
            report("d", 10, "y"),
        ];
        let result = agreement(&reports, 2);
        assert!(result.divided_at.is_some());
        assert_eq!((result.head, result.term), (None, None));
    }

    #[test]
    fn a_suspicion_needs_w_voices_and_so_does_its_end() {
        let voice = |name: &str, suspected: &[&str]| {
            let mut voice = report(name, 10, "h");
            voice.suspected = suspected.iter().map(ToString::to_string).collect();
            voice
        };
        let told = |voices: &[NodeStatus]| {
            suspects(&voices.iter().map(|voice| (voice.name.clone(), voice)).collect(), 2, "d")
        };
        let (a, b, c, d) =
            (voice("a", &["d"]), voice("b", &["d", "d"]), voice("c", &[]), voice("d", &["a"]));
        assert_eq!(told(&[a.clone(), b, c.clone(), d.clone()]), Some(true));
        assert_eq!(
            told(&[a.clone(), c.clone(), d.clone()]),
            Some(false),
            "one accuser may be a liar"
        );
        assert_eq!(told(&[a, d]), None, "who is suspected cannot clear itself");
        assert_eq!(told(&[c]), None);
    }

    proptest! {
        /// Whatever `w - 1` nodes say, what is believed is what an honest node said.
        #[test]
        fn what_is_believed_was_said_by_an_honest_node(
            n in 1_usize..=10, honest in prop::collection::vec(1_u64..200, 10), lies in prop::collection::vec((0_u64..300, 0_u8..3), 10)
        ) {
            let quorum = cretoai_types::Quorum::new(n, cretoai_types::FaultModel::Byzantine);
            let liars = quorum.w - 1;
            let reports: Vec<NodeStatus> = (0..n).map(|i| {
                if i < liars { report(&format!("n{i}"), lies[i].0, &format!("lie{}", lies[i].1)) } else { report(&format!("n{i}"), honest[i], "h") }
            }).collect();
            let result = agreement(&reports, quorum.w);
            prop_assert_eq!(result.divided_at, None);
            if let Some(head) = result.head {
                prop_assert_eq!(&head.chain_hash, &format!("h-{}", head.sequence));
                prop_assert!(head.sequence <= honest[liars..n].iter().copied().max().unwrap_or(0));
            }
            for dissenter in &result.dissenters {
                let index: usize = dissenter[1..].parse().unwrap();
                prop_assert!(index < liars, "an honest node is never named");
            }
        }
    }
}
