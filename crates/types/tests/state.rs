//! The replicated state: what counts as evidence and how often, who is banned and skipped, and what
//! an epoch's end carries over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Check, Key, ballot, forged, genesis, hash, signed_head, tip, vertex, vote_by};
use cretoai_types::{
    Ballot, ChainState, Change, CheckedVertex, Domain, Epoch, Evidence, FULL_REPUTATION, Genesis,
    Hash, Height, Item, Judged, MAX_ITEMS, NodeId, Offence, OffenceKind, Parameters, Phase,
    Reconfig, Sequence, Signature, SignedHeader, SignedReconfig, Signer, Tip, Validators, View,
    ViewChangeHead,
};
use std::sync::Arc;

/// A chain as its nodes know it between two sequences.
struct Chain {
    genesis: Genesis,
    validators: Validators,
    previous: Option<Validators>,
    state: ChainState,
}

impl Chain {
    fn of(n: u32) -> Self {
        let genesis = genesis(n);
        Self {
            validators: genesis.validators(),
            previous: None,
            state: ChainState::at_genesis(&genesis),
            genesis,
        }
    }

    fn id(&self) -> Hash {
        self.genesis.chain_id()
    }

    fn domain(&self) -> Domain {
        Domain { chain_id: self.id(), epoch: self.validators.epoch }
    }

    /// Executes the next sequence with these items, four of each author.
    fn judge(&mut self, items: Vec<Item>) -> Judged {
        let of = |(author, items): (u32, &[Item])| self.sealed(author, items.to_vec());
        let vertices: Vec<Arc<CheckedVertex>> =
            (0..).zip(items.chunks(MAX_ITEMS)).map(of).collect();
        self.judge_vertices(&vertices)
    }

    fn sealed(&self, author: u32, items: Vec<Item>) -> Arc<CheckedVertex> {
        Arc::new(vertex(&self.domain(), author, &Key::member(author), Tip::default(), 1, items))
    }

    fn judge_vertices(&mut self, vertices: &[Arc<CheckedVertex>]) -> Judged {
        self.state.judge_items(
            self.id(),
            &self.validators,
            self.previous.as_ref(),
            vertices,
            &Check,
        )
    }

    /// The offence, if this evidence counts.
    fn count(&mut self, evidence: Evidence) -> Option<Offence> {
        let counted = self.judge(vec![Item::Evidence(Box::new(evidence))]).counted;
        assert!(counted.len() <= 1);
        counted.into_iter().next().map(|(offence, _)| offence)
    }

    /// Ends the epoch.
    fn reconfigure(&mut self, change: Change, keys: &[&Key]) {
        let ready = self.state.known.back().map(|(sequence, chain_hash)| cretoai_types::Ready {
            sequence: *sequence,
            chain_hash: *chain_hash,
        });
        let reconfig = Reconfig {
            epoch: self.validators.epoch,
            valid_until_ms: self.state.time_ms + 60_000,
            change,
            ready,
        };
        let (message, possession) =
            (reconfig.signing_message(self.id()), reconfig.possession_message(self.id()));
        let order = SignedReconfig {
            admin: Key::admin().sign(&message),
            new_key: keys.first().map(|key| key.sign(&possession)),
            old_key: keys.get(1).map(|key| key.sign(&message)),
            reconfig,
        };
        let next = self
            .judge(vec![Item::Reconfig(Box::new(order))])
            .successor
            .expect("the order is valid");
        self.state = self.state.opened(&self.validators, &next);
        self.previous = Some(std::mem::replace(&mut self.validators, Arc::unwrap_or_clone(next)));
    }

    /// An epoch's end that changes nothing else.
    fn next_epoch(&mut self) {
        let term_ms = self.validators.parameters.term_ms + 1;
        self.reconfigure(
            Change::SetParameters(Parameters { term_ms, ..Parameters::default() }),
            &[],
        );
    }

    fn votes(&self, key: &Key, a: Ballot, b: Ballot) -> Evidence {
        Evidence::Votes(vote_by(key, self.id(), a), vote_by(key, self.id(), b))
    }

    /// An offence that no other of this chain is the same as, of a member with the key that the
    /// genesis gave it.
    fn offence(&self, epoch: u64, accused: u32, number: u64) -> Evidence {
        let vote = |digest| ballot(epoch, Phase::Prepare, 0, number, digest, accused);
        self.votes(&Key::member(accused), vote(hash("a")), vote(hash("b")))
    }

    fn fork(
        &self,
        epoch: u64,
        accused: u32,
        key: &Key,
        height: u64,
        stamps: (u64, u64),
    ) -> Evidence {
        let domain = Domain { epoch: Epoch(epoch), ..self.domain() };
        let header = |stamp| {
            let vertex =
                vertex(&domain, accused, key, tip(height - 1, hash("parent")), stamp, Vec::new());
            Box::new(SignedHeader {
                header: vertex.header().clone(),
                signature: vertex.vertex().signature.clone(),
            })
        };
        Evidence::Fork(header(stamps.0), header(stamps.1))
    }

    /// Member 2's COMMIT of sequence 9 in view 3, and its VIEW-CHANGE to `view`.
    fn concealed(&self, view: u64, executed: u64, prepared: Option<(View, Hash)>) -> Evidence {
        let commit =
            vote_by(&Key::member(2), self.id(), ballot(0, Phase::Commit, 3, 9, hash("d"), 2));
        let (epoch, chain_hash) = (Epoch(0), hash("chain"));
        let head = ViewChangeHead {
            epoch,
            view: View(view),
            node: NodeId(2),
            executed: Sequence(executed),
            chain_hash,
            prepared,
        };
        let (head, signature) = signed_head(self.id(), head);
        Evidence::Concealed(commit, head, signature)
    }

    fn banned(&self) -> Vec<u32> {
        self.state.banned(&self.validators).map(|id| id.0).collect()
    }

    fn skipped(&self) -> Vec<u32> {
        self.state.skipped(&self.validators).into_iter().map(|id| id.0).collect()
    }

    fn violate(&mut self, accused: u32, times: u64) {
        let held = u64::from(FULL_REPUTATION - self.state.reputation(NodeId(accused)));
        for number in held..held + times {
            let evidence = self.offence(self.validators.epoch.0, accused, number);
            assert!(self.count(evidence).is_some(), "member {accused}, offence {number}");
        }
    }

    /// Says that records came of these views, in this order.
    fn led(&mut self, views: &[u64]) {
        for view in views {
            let sequence = self.state.sequence.next();
            let tips = self.state.tips.clone();
            self.state.executed(&self.validators, sequence, View(*view), hash("chain"), 1, tips);
        }
    }
}

// ---- what contradicts what

#[test]
fn each_offence_counts_once() {
    let mut chain = Chain::of(4);
    let prepare = |digest: &str| ballot(0, Phase::Prepare, 3, 9, hash(digest), 2);
    let commit = |digest: &str| ballot(0, Phase::Commit, 3, 9, hash(digest), 2);
    let key = Key::member(2);
    let kinds = [
        (
            chain.fork(0, 2, &key, 7, (1, 2)),
            chain.fork(0, 2, &key, 7, (3, 4)),
            OffenceKind::Fork(Height(7)),
        ),
        (
            chain.votes(&key, prepare("a"), prepare("b")),
            chain.votes(&key, prepare("c"), prepare("a")),
            OffenceKind::Votes(false, View(3), Sequence(9)),
        ),
        (
            chain.votes(&key, commit("a"), commit("b")),
            chain.votes(&key, commit("b"), commit("c")),
            OffenceKind::Votes(true, View(3), Sequence(9)),
        ),
        (
            chain.concealed(4, 8, None),
            chain.concealed(6, 7, None),
            OffenceKind::Concealed(View(3), Sequence(9)),
        ),
    ];
    for (number, (first, again, kind)) in (1..).zip(kinds) {
        assert_eq!(
            chain.count(first.clone()),
            Some(Offence { epoch: Epoch(0), accused: NodeId(2), kind })
        );
        assert_eq!(
            (chain.count(first), chain.count(again)),
            (None, None),
            "{kind:?} a second time"
        );
        assert_eq!(chain.state.reputation(NodeId(2)), FULL_REPUTATION - number);
    }
    let elsewhere = [
        chain.fork(0, 2, &key, 8, (1, 2)),
        chain.votes(
            &key,
            Ballot { view: View(4), ..prepare("a") },
            Ballot { view: View(4), ..prepare("b") },
        ),
        chain.votes(
            &key,
            Ballot { sequence: Sequence(10), ..commit("a") },
            Ballot { sequence: Sequence(10), ..commit("b") },
        ),
    ];
    for evidence in elsewhere {
        assert!(chain.count(evidence).is_some());
    }
    assert_eq!(chain.state.reputation(NodeId(2)), FULL_REPUTATION - 7);
    assert_eq!(chain.state.reputation(NodeId(1)), FULL_REPUTATION);
    // The same item twice in one sequence counts once, too.
    let item = Item::Evidence(Box::new(chain.offence(0, 1, 1)));
    assert_eq!(chain.judge(vec![item.clone(), item]).counted.len(), 1);
}

#[test]
fn a_pre_prepare_is_its_leaders_prepare() {
    let mut chain = Chain::of(4);
    let vote = |phase, digest: &str| ballot(0, phase, 0, 9, hash(digest), 0);
    let key = Key::member(0);
    let evidence = chain.votes(&key, vote(Phase::PrePrepare, "a"), vote(Phase::Prepare, "b"));
    assert_eq!(
        chain.count(evidence).map(|offence| offence.kind),
        Some(OffenceKind::Votes(false, View(0), Sequence(9)))
    );
    let same_step = chain.votes(&key, vote(Phase::PrePrepare, "c"), vote(Phase::PrePrepare, "d"));
    assert_eq!(chain.count(same_step), None, "it counted already");
}

#[test]
fn what_agrees_or_is_about_different_things_is_no_evidence() {
    let chain = Chain::of(4);
    let key = Key::member(2);
    let vote =
        |phase, view, sequence, digest: &str| ballot(0, phase, view, sequence, hash(digest), 2);
    let a = vote(Phase::Prepare, 3, 9, "a");
    let b = vote(Phase::Prepare, 3, 9, "b");
    assert!(chain.votes(&key, a, b).offence().is_some());
    let pairs = [
        ("the same digest", a, a),
        ("another view", a, Ballot { view: View(4), ..b }),
        ("another sequence", a, Ballot { sequence: Sequence(10), ..b }),
        ("another epoch", a, Ballot { epoch: Epoch(1), ..b }),
        ("another voter", a, Ballot { voter: NodeId(1), ..b }),
        ("another step", a, Ballot { phase: Phase::Commit, ..b }),
    ];
    for (what, a, b) in pairs {
        assert_eq!(chain.votes(&key, a, b).offence(), None, "{what}");
        assert_eq!(chain.votes(&key, b, a).offence(), None, "{what}");
    }

    let fork = |change: &dyn Fn(&mut SignedHeader)| {
        let Evidence::Fork(a, mut b) = chain.fork(0, 2, &key, 7, (1, 2)) else { unreachable!() };
        change(&mut b);
        Evidence::Fork(a, b).offence()
    };
    assert!(fork(&|_| {}).is_some());
    assert_eq!(fork(&|b| b.header.timestamp_ms = 1), None, "the same vertex");
    assert_eq!(fork(&|b| b.header.height = Height(8)), None);
    assert_eq!(fork(&|b| b.header.author = NodeId(1)), None);
    assert_eq!(fork(&|b| b.header.epoch = Epoch(1)), None, "a slot is of one epoch");
}

#[test]
fn signing_again_is_no_offence_whatever_the_signature_bytes() {
    let chain = Chain::of(4);
    let again = |signature: &Signature| {
        let mut bytes = signature.clone();
        *bytes.0.last_mut().unwrap() ^= 1;
        bytes
    };
    let vote = vote_by(&Key::member(2), chain.id(), ballot(0, Phase::Commit, 3, 9, hash("a"), 2));
    let resigned = cretoai_types::Vote { signature: again(&vote.signature), ..vote.clone() };
    assert_ne!(vote, resigned);
    assert_eq!(Evidence::Votes(vote, resigned).offence(), None);
    let Evidence::Fork(a, _) = chain.fork(0, 2, &Key::member(2), 7, (1, 2)) else { unreachable!() };
    let resigned = Box::new(SignedHeader { signature: again(&a.signature), ..a.as_ref().clone() });
    assert_eq!(Evidence::Fork(a, resigned).offence(), None);
}

#[test]
fn a_view_change_conceals_a_commit_only_if_it_neither_executed_nor_prepared_it() {
    let chain = Chain::of(4);
    let in_view = |view| Some((View(view), hash("any digest")));
    assert!(chain.concealed(4, 8, None).offence().is_some());
    assert!(chain.concealed(4, 8, in_view(2)).offence().is_some(), "an older prepared certificate");
    assert!(chain.concealed(4, 0, None).offence().is_some());
    assert!(
        chain.concealed(4, 7, in_view(3)).offence().is_some(),
        "a prepared certificate of 8, not of 9"
    );
    assert_eq!(
        chain.concealed(3, 8, None).offence(),
        None,
        "of the same view: sent before the COMMIT"
    );
    assert_eq!(chain.concealed(2, 8, None).offence(), None);
    assert_eq!(chain.concealed(4, 9, None).offence(), None, "executed");
    assert_eq!(chain.concealed(4, 10, None).offence(), None);
    assert_eq!(chain.concealed(4, u64::MAX, None).offence(), None);
    assert_eq!(chain.concealed(4, 8, in_view(3)).offence(), None, "prepared");
    assert_eq!(chain.concealed(9, 8, in_view(5)).offence(), None, "prepared again later");
    let Evidence::Concealed(commit, head, signature) = chain.concealed(4, 8, None) else {
        unreachable!()
    };
    let prepare =
        vote_by(&Key::member(2), chain.id(), Ballot { phase: Phase::Prepare, ..commit.ballot });
    assert_eq!(
        Evidence::Concealed(prepare, head.clone(), signature.clone()).offence(),
        None,
        "a PREPARE binds nobody"
    );
    let of_another = ViewChangeHead { node: NodeId(1), ..head.clone() };
    assert_eq!(Evidence::Concealed(commit.clone(), of_another, signature.clone()).offence(), None);
    let of_another_epoch = ViewChangeHead { epoch: Epoch(1), ..head };
    assert_eq!(Evidence::Concealed(commit, of_another_epoch, signature).offence(), None);
}

#[test]
fn nobody_is_accused_without_two_signatures_of_his() {
    let mut chain = Chain::of(4);
    let chain_id = chain.id();
    let spoil = |evidence: &Evidence, second: bool| {
        let mut spoiled = evidence.clone();
        match &mut spoiled {
            Evidence::Fork(a, b) => {
                *(if second { &mut b.signature } else { &mut a.signature }) = forged()
            }
            Evidence::Votes(a, b) => {
                *(if second { &mut b.signature } else { &mut a.signature }) = forged()
            }
            Evidence::Concealed(commit, _, signature) => {
                *(if second { signature } else { &mut commit.signature }) = forged()
            }
        }
        spoiled
    };
    let honest = [
        chain.fork(0, 2, &Key::member(2), 7, (1, 2)),
        chain.offence(0, 2, 9),
        chain.concealed(4, 8, None),
    ];
    for evidence in &honest {
        for second in [false, true] {
            assert!(!spoil(evidence, second).is_signed(chain_id, &chain.validators, &Check));
            assert_eq!(chain.count(spoil(evidence, second)), None);
        }
        assert!(!evidence.is_signed(hash("another chain"), &chain.validators, &Check));
    }
    // Signed by the accuser himself.
    let vote = |digest: &str| ballot(0, Phase::Prepare, 0, 1, hash(digest), 2);
    let framed = chain.votes(&Key::member(0), vote("a"), vote("b"));
    assert_eq!(chain.count(framed), None);
    let framed = chain.fork(0, 2, &Key::member(0), 7, (1, 2));
    assert_eq!(chain.count(framed), None);
    assert_eq!(chain.count(chain_of_stranger(&chain)), None, "no member");
    assert_eq!(chain.state.reputation(NodeId(2)), FULL_REPUTATION);
    for evidence in honest {
        assert!(chain.count(evidence).is_some());
    }
}

fn chain_of_stranger(chain: &Chain) -> Evidence {
    chain.offence(0, 4, 1)
}

#[test]
fn evidence_of_any_epoch_number_is_judged_without_overflow() {
    let mut chain = Chain::of(4);
    for epoch in [u64::MAX, u64::MAX - 1] {
        assert_eq!(chain.count(chain.offence(epoch, 2, 1)), None, "epoch {epoch}");
        assert_eq!(chain.count(chain.fork(epoch, 2, &Key::member(2), u64::MAX, (1, 2))), None);
    }
}

#[test]
fn of_each_author_four_items_of_a_sequence_are_judged() {
    let mut chain = Chain::of(4);
    let items = |chain: &Chain, numbers: std::ops::Range<u64>| -> Vec<Item> {
        numbers.map(|number| Item::Evidence(Box::new(chain.offence(0, 2, number)))).collect()
    };
    // Bad ones count against their author, too, and good ones of another author still count.
    let bad = vec![Item::Evidence(Box::new(chain.offence(9, 2, 1))); 3];
    let vertices = [
        chain.sealed(0, bad),
        chain.sealed(0, items(&chain, 0..3)),
        chain.sealed(1, items(&chain, 2..4)),
    ];
    let counted = chain.judge_vertices(&vertices).counted;
    let numbers: Vec<u64> = counted
        .iter()
        .filter_map(|(offence, _)| {
            if let OffenceKind::Votes(_, _, sequence) = offence.kind {
                Some(sequence.0)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(numbers, [0, 2, 3]);
    let again = [chain.sealed(0, items(&chain, 1..3))];
    assert_eq!(
        chain.judge_vertices(&again).counted.len(),
        1,
        "what was void is judged when it is sealed again"
    );
}

// ---- epochs and keys

#[test]
fn evidence_counts_in_its_epoch_and_the_next_and_then_no_more() {
    let mut chain = Chain::of(4);
    assert_eq!(chain.count(chain.offence(1, 2, 1)), None, "of an epoch to come");
    assert!(chain.count(chain.offence(0, 2, 1)).is_some());
    chain.next_epoch();
    assert!(chain.count(chain.offence(0, 2, 2)).is_some(), "of the epoch before");
    assert_eq!(chain.count(chain.offence(0, 2, 1)), None, "counted before the epoch's end");
    assert!(
        chain.count(chain.offence(1, 2, 1)).is_some(),
        "the same place in another epoch is another offence"
    );
    chain.next_epoch();
    assert_eq!(chain.count(chain.offence(0, 2, 3)), None, "two epochs ago");
    assert!(chain.count(chain.offence(1, 2, 3)).is_some());
    assert_eq!(
        chain.state.reputation(NodeId(2)),
        FULL_REPUTATION - 4,
        "reputation goes on across epochs"
    );
    chain.previous = None;
    assert_eq!(chain.count(chain.offence(1, 2, 4)), None, "nobody to judge by");
}

#[test]
fn a_rotated_key_inherits_what_the_old_one_did() {
    let mut chain = Chain::of(4);
    let (old, new) = (Key::member(2), Key::new("rotated"));
    chain.violate(2, 3);
    chain.reconfigure(Change::Rotate { id: NodeId(2), key: new.0.clone() }, &[&new, &old]);
    assert_eq!(chain.state.reputation(NodeId(2)), FULL_REPUTATION - 3);
    assert!(chain.count(chain.offence(0, 2, 50)).is_some(), "the old key's, of the epoch before");
    assert_eq!(
        chain.count(chain.offence(1, 2, 50)),
        None,
        "the old key signs nothing in this epoch"
    );
    let vote = |epoch, digest: &str| ballot(epoch, Phase::Prepare, 0, 50, hash(digest), 2);
    assert_eq!(
        chain.count(chain.votes(&new, vote(0, "a"), vote(0, "c"))),
        None,
        "the new key signs nothing in the old one"
    );
    assert!(chain.count(chain.votes(&new, vote(1, "a"), vote(1, "b"))).is_some());
    assert_eq!(chain.state.reputation(NodeId(2)), FULL_REPUTATION - 5);
}

#[test]
fn a_replaced_key_starts_afresh_and_answers_for_nothing_before() {
    let mut chain = Chain::of(4);
    let new = Key::new("replacement");
    chain.violate(2, 8);
    assert_eq!(chain.banned(), [2]);
    chain.reconfigure(Change::Replace { id: NodeId(2), key: new.0.clone() }, &[&new]);
    assert_eq!((chain.state.reputation(NodeId(2)), chain.banned()), (FULL_REPUTATION, vec![]));
    assert_eq!(chain.count(chain.offence(0, 2, 50)), None, "the lost key's");
    let vote = |digest: &str| ballot(1, Phase::Prepare, 0, 1, hash(digest), 2);
    assert!(chain.count(chain.votes(&new, vote("a"), vote("b"))).is_some());
    // Others of that epoch still answer for the one before.
    assert!(chain.count(chain.offence(0, 1, 50)).is_some());
    chain.next_epoch();
    let vote = |digest: &str| ballot(1, Phase::Prepare, 0, 2, hash(digest), 2);
    assert!(
        chain.count(chain.votes(&new, vote("a"), vote("b"))).is_some(),
        "since the epoch of its key"
    );
}

#[test]
fn who_is_added_starts_afresh_and_who_is_removed_takes_his_ban_along() {
    let mut chain = Chain::of(7);
    let new = Key::member(7);
    for accused in [5, 1, 3] {
        chain.violate(accused, 8);
    }
    assert_eq!((chain.banned(), chain.state.bans.len()), (vec![5, 1], 3), "f = 2");
    chain.reconfigure(Change::Remove { id: NodeId(5) }, &[]);
    assert_eq!(chain.banned(), [1], "of six f is 1");
    assert_eq!(chain.count(chain.offence(0, 5, 50)), None, "no member any more");
    chain.reconfigure(Change::Add { name: "m-7".into(), key: new.0.clone() }, &[&new]);
    assert_eq!(chain.banned(), [1, 3], "of seven f is 2, and 3 is the next");
    assert_eq!(chain.state.reputation(NodeId(7)), FULL_REPUTATION);
    assert_eq!(chain.count(chain.offence(1, 7, 1)), None, "it was no member then");
    assert!(chain.count(chain.offence(2, 7, 1)).is_some());
}

// ---- bans

#[test]
fn eight_violations_ban_and_seven_do_not() {
    let mut chain = Chain::of(4);
    chain.violate(3, 7);
    assert_eq!((chain.state.reputation(NodeId(3)), chain.banned()), (3, vec![]));
    chain.violate(3, 1);
    assert_eq!((chain.state.reputation(NodeId(3)), chain.banned()), (2, vec![3]));
    chain.violate(3, 1);
    assert_eq!(
        (chain.state.reputation(NodeId(3)), chain.state.bans.clone()),
        (1, vec![NodeId(3)]),
        "once"
    );
}

#[test]
fn sixteen_offences_of_a_validator_are_kept_and_reputation_ends_at_zero() {
    let mut chain = Chain::of(4);
    for number in 0..16 {
        assert!(chain.count(chain.offence(0, 3, number)).is_some(), "offence {number}");
    }
    assert_eq!(chain.count(chain.offence(0, 3, 16)), None);
    assert_eq!(chain.state.reputation(NodeId(3)), 0);
    assert_eq!(chain.state.conduct[3].offences.len(), 16);
    assert!(chain.count(chain.offence(0, 2, 0)).is_some(), "of another one");
}

#[test]
fn the_first_to_fall_are_banned_at_most_f_but_one_at_least_and_nobody_below_three() {
    for (n, most) in [(1, 0), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2), (10, 3), (31, 10)] {
        let mut chain = Chain::of(n);
        let falling: Vec<u32> = (0..n).rev().collect();
        for accused in &falling {
            chain.violate(*accused, 8);
        }
        assert_eq!(chain.state.bans.len(), n as usize);
        assert_eq!(chain.banned(), falling[..most], "n = {n}");
    }
    let mut two = Chain::of(3);
    two.violate(2, 8);
    two.reconfigure(Change::Remove { id: NodeId(0) }, &[]);
    assert_eq!((two.state.bans.clone(), two.banned()), (vec![NodeId(2)], vec![]), "n = 2");
}

// ---- leaders

#[test]
fn whose_last_two_views_gave_nothing_is_skipped() {
    let mut chain = Chain::of(4);
    chain.led(&[0]);
    assert_eq!(chain.skipped(), [0; 0], "no view below");
    chain.led(&[7]);
    // Views 3 and 7 are of member 3, which succeeded; 1 and 5 of member 1, 2 and 6 of member 2: of
    // f = 1 the most recent.
    assert_eq!(chain.skipped(), [2]);
    let mut chain = Chain::of(4);
    chain.led(&[0, 1, 2, 3, 8]);
    assert_eq!(chain.skipped(), [0; 0], "each succeeded in one of its last two views");
    chain.led(&[9, 10, 12]);
    // Below 12 member 3 led 7 and 11 and succeeded in neither: 3 is too long ago.
    assert_eq!(chain.skipped(), [3]);
    chain.led(&[15]);
    assert_eq!(chain.skipped(), [0; 0]);
    // A record of an older view, learnt late, changes nothing for the worse.
    chain.led(&[4]);
    assert_eq!((chain.state.leaders.newest_origin, chain.skipped()), (View(15), vec![]));
}

#[test]
fn one_failed_view_is_not_enough() {
    let mut chain = Chain::of(4);
    // Below view 4 everyone has led only once.
    chain.led(&[4]);
    assert_eq!(chain.skipped(), [0; 0]);
    // Below 6 members 0 and 1 led twice; 0 succeeded in view 4, 1 in none of 1 and 5.
    chain.led(&[6]);
    assert_eq!(chain.skipped(), [1]);
}

#[test]
fn in_one_rotation_of_eight_only_the_banned_are_skipped() {
    let mut chain = Chain::of(4);
    chain.violate(0, 8);
    let mut unbanned = Chain::of(4);
    for view in 8..64 {
        chain.led(&[view]);
        chain.state.leaders.succeeded = vec![None; 4];
        unbanned.state.leaders = chain.state.leaders.clone();
        let forgiving = view / 4 % 8 == 7;
        assert_eq!(
            (chain.skipped(), unbanned.skipped().is_empty()),
            (vec![0], forgiving),
            "view {view}"
        );
    }
}

#[test]
fn at_most_f_are_skipped_the_banned_first_then_the_most_recent() {
    let mut chain = Chain::of(7);
    chain.led(&[20]);
    // Member 6 succeeded in view 20; the last views of 0 to 5 were 14 to 19.
    assert_eq!(chain.skipped(), [4, 5], "f = 2");
    chain.violate(1, 8);
    assert_eq!(chain.skipped(), [1, 5]);
    chain.violate(0, 8);
    assert_eq!(chain.skipped(), [0, 1]);
    chain.violate(6, 8);
    assert_eq!(chain.skipped(), [0, 1], "the third to fall is not banned");
    let mut three = Chain::of(3);
    three.led(&[20]);
    three.violate(1, 8);
    assert_eq!(
        (three.banned(), three.skipped()),
        (vec![1], vec![]),
        "f = 0: no leader can be spared"
    );
}

#[test]
fn leaders_are_counted_afresh_in_each_epoch_and_from_its_first_leader() {
    let mut chain = Chain::of(4);
    chain.led(&[7]);
    assert_eq!(chain.skipped(), [2]);
    chain.next_epoch();
    assert_eq!(
        (chain.validators.first, chain.validators.leader(View(0))),
        (3, NodeId(3)),
        "who led last goes on"
    );
    assert_eq!((chain.state.leaders.newest_origin, chain.skipped()), (View(0), vec![]));
    // Views 0, 4 are of member 3; 1, 5 of 0; 2, 6 of 1; 3, 7 of 2.
    chain.led(&[7]);
    assert_eq!(chain.skipped(), [1]);
}

#[test]
fn extreme_views_do_not_overflow() {
    for n in [1, 3, 4, 31] {
        let mut chain = Chain::of(n);
        chain.led(&[u64::MAX - 1, u64::MAX]);
        assert!(chain.skipped().len() <= chain.validators.quorum().f);
    }
}

// ---- what else follows from the chain

#[test]
fn ready_may_name_the_last_sixty_four_sequences_that_sixty_four_divides() {
    let mut chain = Chain::of(4);
    let id = chain.id();
    assert!(chain.state.knows(Sequence(0), id), "the genesis");
    for sequence in 1..=64 * 64 {
        let tips = chain.state.tips.clone();
        chain.state.executed(
            &chain.validators,
            Sequence(sequence),
            View(0),
            hash(&sequence.to_string()),
            sequence,
            tips,
        );
        let known = chain.state.knows(Sequence(sequence), hash(&sequence.to_string()));
        assert_eq!(known, sequence % 64 == 0, "sequence {sequence}");
    }
    assert_eq!(chain.state.known.len(), 64);
    assert!(!chain.state.knows(Sequence(0), id), "too long ago");
    assert!(chain.state.knows(Sequence(64), hash("64")));
    assert!(!chain.state.knows(Sequence(128), hash("64")));
}

#[test]
fn the_state_root_covers_conduct_and_validators() {
    let mut chain = Chain::of(4);
    let before = chain.state.root(&chain.validators);
    let others = Validators { first: 1, ..chain.validators.clone() };
    assert_ne!(chain.state.root(&others), before);
    chain.violate(1, 1);
    assert_ne!(chain.state.root(&chain.validators), before);
}

#[test]
fn an_epoch_begins_with_the_lanes_of_those_who_stay() {
    let mut chain = Chain::of(4);
    let tips: Vec<Tip> = (1..=4).map(|height| tip(height, hash(&height.to_string()))).collect();
    chain.state.executed(&chain.validators, Sequence(64), View(0), hash("64"), 5, tips.clone());
    let (old, new) = (Key::member(3), Key::new("rotated"));
    chain.reconfigure(Change::Remove { id: NodeId(1) }, &[]);
    assert_eq!(chain.state.tips, [tips[0], tips[2], tips[3]]);
    assert_eq!(
        chain.state.conduct.iter().map(|conduct| conduct.id.0).collect::<Vec<_>>(),
        [0, 2, 3]
    );
    chain.reconfigure(Change::Rotate { id: NodeId(3), key: new.0.clone() }, &[&new, &old]);
    assert_eq!(chain.state.tips, [tips[0], tips[2], tips[3]], "a lane outlives its key");
    let joined = Key::member(4);
    chain.reconfigure(Change::Add { name: "m-4".into(), key: joined.0.clone() }, &[&joined]);
    assert_eq!(
        chain.state.tips,
        [tips[0], tips[2], tips[3], Tip::default()],
        "a new lane begins at nothing"
    );
    let state = &chain.state;
    assert_eq!(
        (state.epoch, state.sequence, state.chain_hash, state.time_ms),
        (Epoch(3), Sequence(64), hash("64"), 5)
    );
    assert_eq!((state.successor, state.leaders.succeeded.len()), (None, 4));
    for key in [&old, &new, &joined, &Key::member(1), &Key::admin()] {
        assert!(state.used_key(&key.0), "a key is remembered for ever");
    }
}

#[test]
fn the_first_valid_order_of_a_sequence_ends_the_epoch_and_the_rest_of_it_is_still_judged() {
    let mut chain = Chain::of(4);
    let order = |term_ms: u64, admin: &Key| {
        let change = Change::SetParameters(Parameters { term_ms, ..Parameters::default() });
        let reconfig = Reconfig {
            epoch: Epoch(0),
            valid_until_ms: chain.state.time_ms + 60_000,
            change,
            ready: None,
        };
        let admin = admin.sign(&reconfig.signing_message(chain.id()));
        Item::Reconfig(Box::new(SignedReconfig { reconfig, admin, new_key: None, old_key: None }))
    };
    let items = vec![
        order(1, &Key::member(0)),
        order(2, &Key::admin()),
        order(3, &Key::admin()),
        Item::Evidence(Box::new(chain.offence(0, 2, 1))),
        order(4, &Key::admin()),
        Item::Evidence(Box::new(chain.offence(0, 2, 2))),
    ];
    let judged = chain.judge(items);
    let successor = judged.successor.unwrap();
    assert_eq!((successor.parameters.term_ms, successor.epoch), (2, Epoch(1)));
    assert_eq!(chain.state.successor, Some(successor.hash()));
    assert_eq!(judged.counted.len(), 2, "all of the sequence is executed");
    let before = chain.state.clone();
    assert!(chain.judge(Vec::new()).successor.is_none());
    assert_ne!(
        chain.state.root(&chain.validators),
        before.root(&chain.validators),
        "a sequence without one has no successor"
    );
}
