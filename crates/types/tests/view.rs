//! VIEW-CHANGE and NEW-VIEW: what they prove, and that a hostile leader can change nothing in one
//! that is believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{
    Check, Key, certificate, checkpoint_certificate, forged, genesis, hash, signed_head, tip,
    validators,
};
use cretoai_types::{
    Certificate, CertificateError, CheckpointCertificate, CheckpointState, Choice, Domain, Epoch,
    Hash, NewView, NodeId, Opening, Phase, Prepared, Proof, Proposal, Sequence, Signature, Signer,
    Validators, View, ViewChange, ViewChangeHead,
};

// ---- a chain of four: sequence 8 is executed, 9 was prepared in views 0 and 2, and view 5 begins,
// led by member 1

const VIEW: View = View(5);

fn chain_id() -> Hash {
    genesis(4).chain_id()
}

fn four() -> Validators {
    validators(4)
}

fn domain() -> Domain {
    Domain { chain_id: chain_id(), epoch: Epoch(0) }
}

fn opening() -> Opening {
    Opening { sequence: Sequence(0), chain_hash: chain_id() }
}

fn proposal(origin: u64) -> Proposal {
    let cut = vec![tip(1, hash("a")), tip(0, Hash::ZERO), tip(0, Hash::ZERO), tip(2, hash("b"))];
    Proposal {
        sequence: Sequence(9),
        prev: hash("chain 8"),
        time_ms: 7,
        origin_view: View(origin),
        cut,
    }
}

fn votes(phase: Phase, view: u64, sequence: u64, digest: Hash, voters: &[u32]) -> Certificate {
    certificate(chain_id(), &four(), phase, view, sequence, digest, voters)
}

fn prepared_in(view: u64) -> Prepared {
    let proposal = proposal(view);
    Prepared {
        certificate: votes(Phase::Prepare, view, 9, proposal.digest(&domain()), &[0, 1, 2]),
        proposal,
    }
}

fn claim(prepared: &Prepared) -> (View, Hash) {
    (prepared.certificate.view, prepared.certificate.digest)
}

fn executed_8() -> Proof {
    Proof::Commit(votes(Phase::Commit, 2, 8, hash("digest 8"), &[0, 2, 3]))
}

fn checkpointed_8(chain_hash: Hash) -> CheckpointCertificate {
    let state = CheckpointState {
        epoch: Epoch(0),
        sequence: Sequence(8),
        chain_hash,
        tips: proposal(0).cut,
        root: hash("root"),
        successor: None,
    };
    checkpoint_certificate(chain_id(), &state, &[0, 1, 3])
}

fn head(node: u32, executed: u64, prepared: Option<(View, Hash)>) -> ViewChangeHead {
    let chain_hash = if executed == 0 { chain_id() } else { hash(&format!("chain {executed}")) };
    ViewChangeHead {
        epoch: Epoch(0),
        view: VIEW,
        node: NodeId(node),
        executed: Sequence(executed),
        chain_hash,
        prepared,
    }
}

fn sign(head: ViewChangeHead) -> (ViewChangeHead, Signature) {
    signed_head(chain_id(), head)
}

/// Signed by whoever leads the view that it names.
fn sealed(mut new_view: NewView) -> NewView {
    let leader = four().leader(new_view.view);
    new_view.signature = Key::member(leader.0).sign(&NewView::signing_message(
        new_view.epoch,
        new_view.view,
        &new_view.heads,
        chain_id(),
    ));
    new_view
}

/// Two of the quorum executed 8, and one of them prepared 9 in view 2; the other did in view 0, the
/// third is behind.
fn honest() -> NewView {
    let (older, newer) = (prepared_in(0), prepared_in(2));
    let heads = vec![
        sign(head(0, 8, Some(claim(&older)))),
        sign(head(1, 7, Some((View(4), hash("lower"))))),
        sign(head(3, 8, Some(claim(&newer)))),
    ];
    sealed(NewView {
        epoch: Epoch(0),
        view: VIEW,
        heads,
        proof: Some(executed_8()),
        prepared: Some(newer),
        signature: forged(),
    })
}

fn verify(new_view: &NewView) -> Option<Choice> {
    new_view.verify(chain_id(), &four(), opening(), &Check)
}

/// Asserts that no node believes an honest NEW-VIEW that its leader changed and signed again.
fn refused(what: &str, change: impl FnOnce(&mut NewView)) {
    let mut changed = honest();
    change(&mut changed);
    assert_eq!(verify(&sealed(changed)), None, "{what}");
}

/// The name of a change, and the change.
type Changed<T> = (&'static str, fn(&mut T));

#[test]
fn an_honest_new_view_is_believed_and_chooses_the_newest_prepared_digest() {
    let expected = Choice {
        executed: Sequence(8),
        chain_hash: hash("chain 8"),
        prepared: Some(claim(&prepared_in(2))),
    };
    assert_eq!(verify(&honest()), Some(expected));
    let by_checkpoint =
        NewView { proof: Some(Proof::Checkpoint(checkpointed_8(hash("chain 8")))), ..honest() };
    assert_eq!(verify(&by_checkpoint), Some(expected));
    // Any certificate of the same (view, sequence, digest) will do.
    let mut other_voters = honest();
    let certificate = &mut other_voters.prepared.as_mut().unwrap().certificate;
    *certificate = votes(Phase::Prepare, 2, 9, certificate.digest, &[0, 1, 2, 3]);
    assert_eq!(verify(&other_voters), Some(expected));
}

#[test]
fn a_leader_cannot_choose_whose_word_counts() {
    refused("one head less than a quorum", |n| drop(n.heads.pop()));
    refused("one head more than a quorum", |n| n.heads.insert(2, sign(head(2, 7, None))));
    refused("one head twice", |n| n.heads[1] = n.heads[0].clone());
    refused("out of order", |n| n.heads.swap(0, 1));
    refused("without the leader's own", |n| n.heads[1] = sign(head(2, 7, None)));
    refused("a stranger's head", |n| n.heads[2] = sign(head(4, 8, Some(claim(&prepared_in(2))))));
    refused("the heads of another view", |n| {
        for (head, signature) in &mut n.heads {
            (*head, *signature) = sign(ViewChangeHead { view: View(9), ..head.clone() });
        }
    });
    refused("one head of another view", |n| {
        n.heads[0] = sign(ViewChangeHead { view: View(4), ..head(0, 8, None) })
    });
    refused("one head of another epoch", |n| {
        n.heads[0] = sign(ViewChangeHead { epoch: Epoch(1), ..head(0, 8, None) })
    });
}

#[test]
fn a_leader_cannot_change_what_another_member_said() {
    let changes: [Changed<ViewChangeHead>; 6] = [
        ("what it executed", |h| h.executed = Sequence(7)),
        ("the chain hash", |h| h.chain_hash = hash("other")),
        ("that it prepared", |h| h.prepared = None),
        ("the prepared view", |h| {
            h.prepared = h.prepared.map(|(view, digest)| (View(view.0 + 1), digest))
        }),
        ("the prepared digest", |h| h.prepared = h.prepared.map(|(view, _)| (view, hash("other")))),
        ("who said it", |h| h.node = NodeId(2)),
    ];
    for (what, change) in changes {
        refused(what, |n| change(&mut n.heads[2].0));
    }
    refused("a forged signature", |n| n.heads[0].1 = forged());
    refused("the signature of another", |n| n.heads[0].1 = n.heads[2].1.clone());
}

#[test]
fn a_leader_cannot_begin_with_less_than_was_prepared() {
    refused("nothing, though 9 was prepared", |n| n.prepared = None);
    refused("an older prepared certificate", |n| n.prepared = Some(prepared_in(0)));
    refused("one of a view that nobody named", |n| n.prepared = Some(prepared_in(1)));
    refused("another proposal", |n| n.prepared.as_mut().unwrap().proposal.time_ms += 1);
    refused("fewer votes than a quorum", |n| {
        drop(n.prepared.as_mut().unwrap().certificate.votes.pop())
    });
    refused("a forged vote", |n| n.prepared.as_mut().unwrap().certificate.votes[1].1 = forged());
    refused("COMMITs for PREPAREs", |n| {
        let certificate = &mut n.prepared.as_mut().unwrap().certificate;
        *certificate = votes(Phase::Commit, 2, 9, certificate.digest, &[0, 1, 2]);
    });
    refused("no PRE-PREPARE", |n| {
        let certificate = &mut n.prepared.as_mut().unwrap().certificate;
        *certificate = votes(Phase::Prepare, 2, 9, certificate.digest, &[0, 1, 3]);
    });
    // Without a claim in the heads there is nothing to be shown.
    let free = sealed(NewView {
        heads: (1..4).map(|node| sign(head(node, 8, None))).collect(),
        prepared: None,
        ..honest()
    });
    assert_eq!(verify(&free).map(|choice| choice.prepared), Some(None));
    assert_eq!(
        verify(&NewView { prepared: Some(prepared_in(2)), ..free }),
        None,
        "a certificate that no head names"
    );
}

#[test]
fn a_claim_of_this_view_or_a_later_one_is_refused() {
    for view in [VIEW.0, VIEW.0 + 1] {
        let impossible = prepared_in(view);
        // The votes themselves would verify: only the rule that a VIEW-CHANGE ends all lower views
        // makes it impossible.
        let heads = (1..4).map(|node| sign(head(node, 8, Some(claim(&impossible))))).collect();
        assert_eq!(
            verify(&sealed(NewView { heads, prepared: Some(impossible), ..honest() })),
            None,
            "view {view}"
        );
    }
}

#[test]
fn a_leader_cannot_begin_after_what_nobody_can_prove() {
    refused("no proof", |n| n.proof = None);
    refused("the proof of another sequence", |n| {
        n.proof = Some(Proof::Commit(votes(Phase::Commit, 2, 7, hash("d"), &[0, 2, 3])))
    });
    refused("PREPAREs for COMMITs", |n| {
        n.proof = Some(Proof::Commit(votes(Phase::Prepare, 2, 8, hash("d"), &[0, 1, 2])))
    });
    refused("fewer votes than a quorum", |n| {
        n.proof = Some(Proof::Commit(votes(Phase::Commit, 2, 8, hash("d"), &[0, 2])))
    });
    refused("a checkpoint of another chain hash", |n| {
        n.proof = Some(Proof::Checkpoint(checkpointed_8(hash("other"))))
    });
    refused("a checkpoint signed by two", |n| {
        let mut certificate = checkpointed_8(hash("chain 8"));
        certificate.signatures.pop();
        n.proof = Some(Proof::Checkpoint(certificate));
    });
    // A commit certificate proves no chain hash, so heads that disagree about one are not believed.
    refused("two chain hashes", |n| {
        n.heads[0] = sign(ViewChangeHead { chain_hash: hash("other"), ..head(0, 8, None) })
    });
    // The claim of the highest head must be proven, even if others report less.
    refused("a higher claim", |n| n.heads[0] = sign(head(0, 9, None)));
}

#[test]
fn only_the_leader_of_the_view_begins_it() {
    let good = honest();
    for node in [0, 2, 3] {
        let message = NewView::signing_message(good.epoch, good.view, &good.heads, chain_id());
        assert_eq!(
            verify(&NewView { signature: Key::member(node).sign(&message), ..good.clone() }),
            None,
            "member {node}"
        );
    }
    assert_eq!(verify(&NewView { signature: forged(), ..good.clone() }), None);
    let another_chain =
        NewView::signing_message(good.epoch, good.view, &good.heads, hash("another chain"));
    assert_eq!(
        verify(&NewView { signature: Key::member(1).sign(&another_chain), ..good.clone() }),
        None
    );
    let other_heads: Vec<_> = (1..4).map(|node| sign(head(node, 8, None))).collect();
    let message = NewView::signing_message(good.epoch, good.view, &other_heads, chain_id());
    assert_eq!(
        verify(&NewView { signature: Key::member(1).sign(&message), ..good.clone() }),
        None,
        "over other heads"
    );
    assert_eq!(good.verify(hash("another chain"), &four(), opening(), &Check), None);
    assert_eq!(
        good.verify(chain_id(), &Validators { epoch: Epoch(1), ..four() }, opening(), &Check),
        None
    );
    refused("relabelled as the leader's next view", |n| n.view = View(9));
    refused("relabelled as of another epoch", |n| n.epoch = Epoch(1));
    refused("view of another leader", |n| n.view = View(6));
}

#[test]
fn at_the_opening_nothing_needs_a_proof_and_below_it_nothing_is_believed() {
    let at = |opening: Opening, heads: Vec<ViewChangeHead>| {
        let heads = heads.into_iter().map(sign).collect();
        sealed(NewView { heads, proof: None, prepared: None, ..honest() }).verify(
            chain_id(),
            &four(),
            opening,
            &Check,
        )
    };
    let heads = || (1..4).map(|node| head(node, 0, None)).collect::<Vec<_>>();
    assert_eq!(
        at(opening(), heads()),
        Some(Choice { executed: Sequence(0), chain_hash: chain_id(), prepared: None })
    );
    let wrong = heads()
        .into_iter()
        .map(|head| ViewChangeHead { chain_hash: hash("other"), ..head })
        .collect();
    assert_eq!(at(opening(), wrong), None);
    let later = Opening { sequence: Sequence(5), chain_hash: hash("chain 5") };
    assert_eq!(at(later, heads()), None, "below the opening");
    let heads = || (1..4).map(|node| head(node, 5, None)).collect::<Vec<_>>();
    assert_eq!(at(later, heads()).map(|choice| choice.executed), Some(Sequence(5)));
    assert_eq!(at(opening(), heads()), None, "above it without a proof");
}

#[test]
fn extreme_numbers_in_a_new_view_are_refused_and_never_panic() {
    for extreme in [u64::MAX, u64::MAX - 1] {
        refused("executed", |n| {
            n.heads.iter_mut().for_each(|h| {
                *h = sign(ViewChangeHead { executed: Sequence(extreme), ..h.0.clone() })
            })
        });
        refused("prepared view", |n| {
            n.heads[2] = sign(head(3, 8, Some((View(extreme), hash("x")))))
        });
        refused("view", |n| n.view = View(extreme));
    }
    refused("no heads", |n| n.heads.clear());
}

// ---- choice

#[test]
fn the_highest_executed_sequence_chooses_and_among_its_reporters_the_highest_prepared_view() {
    let of = |heads: &[ViewChangeHead]| {
        let mut rotated = heads.to_vec();
        let choice = Choice::of(&rotated);
        for _ in 0..heads.len() {
            rotated.rotate_left(1);
            assert_eq!(Choice::of(&rotated), choice, "the order of the heads does not matter");
        }
        choice
    };
    let (a, b) = (Some((View(1), hash("a"))), Some((View(3), hash("b"))));
    assert_eq!(of(&[]), None);
    let expected = |executed: u64, prepared| {
        Some(Choice {
            executed: Sequence(executed),
            chain_hash: head(0, executed, None).chain_hash,
            prepared,
        })
    };
    assert_eq!(of(&[head(0, 8, None), head(1, 8, None)]), expected(8, None));
    assert_eq!(of(&[head(0, 8, None), head(1, 8, a), head(2, 8, None)]), expected(8, a));
    assert_eq!(of(&[head(0, 8, a), head(1, 8, b), head(2, 8, None)]), expected(8, b));
    assert_eq!(
        of(&[head(0, 7, b), head(1, 8, a), head(2, 8, None)]),
        expected(8, a),
        "7 is below: its claim is about 8"
    );
    assert_eq!(of(&[head(0, 7, b), head(1, 8, None), head(2, 6, a)]), expected(8, None));
    assert_eq!(of(&[head(0, 0, None), head(1, 0, a), head(2, 0, None)]), expected(0, a));
}

// ---- what rides along

#[test]
fn a_prepared_certificate_proves_exactly_its_claim() {
    let good = prepared_in(2);
    let (view, digest) = claim(&good);
    let proves = |prepared: &Prepared, claim, executed: u64, chain_hash| {
        prepared.proves(claim, Sequence(executed), chain_hash, chain_id(), &four(), &Check)
    };
    let is_proof = |prepared: &Prepared| proves(prepared, (view, digest), 8, hash("chain 8"));
    assert!(is_proof(&good));
    assert!(!proves(&good, (View(3), digest), 8, hash("chain 8")));
    assert!(!proves(&good, (view, hash("other")), 8, hash("chain 8")));
    assert!(!proves(&good, (view, digest), 7, hash("chain 8")));
    assert!(!proves(&good, (view, digest), 9, hash("chain 8")));
    assert!(!proves(&good, (view, digest), u64::MAX, hash("chain 8")));
    assert!(!proves(&good, (view, digest), 8, hash("other")), "on top of another chain");
    assert!(!good.proves(
        (view, digest),
        Sequence(8),
        hash("chain 8"),
        hash("another chain"),
        &four(),
        &Check
    ));
    assert!(!good.proves(
        (view, digest),
        Sequence(8),
        hash("chain 8"),
        chain_id(),
        &Validators { epoch: Epoch(1), ..four() },
        &Check
    ));

    let of = |proposal: Proposal, sequence: u64| {
        let certificate =
            votes(Phase::Prepare, 2, sequence, proposal.digest(&domain()), &[0, 1, 2]);
        let claim = (view, certificate.digest);
        proves(&Prepared { certificate, proposal }, claim, 8, hash("chain 8"))
    };
    assert!(of(proposal(2), 9));
    assert!(
        !of(Proposal { sequence: Sequence(8), ..proposal(2) }, 9),
        "a proposal of another sequence"
    );
    assert!(!of(proposal(2), 10), "votes of another sequence");
    assert!(!of(Proposal { prev: hash("other"), ..proposal(2) }, 9));
    assert!(
        !of(Proposal { cut: proposal(2).cut[..3].to_vec(), ..proposal(2) }, 9),
        "a lane is missing"
    );
    assert!(
        !is_proof(&Prepared { proposal: proposal(0), ..good.clone() }),
        "another proposal than was voted"
    );
    for voters in [&[0, 1][..], &[0, 1, 3], &[1, 2, 4]] {
        assert!(
            !is_proof(&Prepared {
                certificate: votes(Phase::Prepare, 2, 9, digest, voters),
                ..good.clone()
            }),
            "{voters:?}"
        );
    }
    assert!(!is_proof(&Prepared {
        certificate: votes(Phase::Commit, 2, 9, digest, &[0, 1, 2]),
        ..good.clone()
    }));
}

#[test]
fn a_view_change_is_believed_with_all_that_it_claims() {
    let newer = prepared_in(2);
    let change = |head: ViewChangeHead, proof: Option<Proof>, prepared: Option<Prepared>| {
        let (head, signature) = sign(head);
        ViewChange { head, signature, proof, prepared }
    };
    let verify = |change: &ViewChange| change.verify(chain_id(), &four(), opening(), &Check);
    let good = change(head(0, 8, Some(claim(&newer))), Some(executed_8()), Some(newer.clone()));
    assert!(verify(&good));
    assert!(verify(&change(
        head(0, 8, None),
        Some(Proof::Checkpoint(checkpointed_8(hash("chain 8")))),
        None
    )));
    assert!(verify(&change(head(0, 0, None), None, None)), "at the opening");

    assert!(!verify(&ViewChange { signature: forged(), ..good.clone() }));
    assert!(!verify(&ViewChange { signature: sign(head(0, 8, None)).1, ..good.clone() }));
    assert!(
        !verify(&change(head(4, 8, Some(claim(&newer))), Some(executed_8()), Some(newer.clone()))),
        "a stranger"
    );
    assert!(
        !verify(&change(head(0, 8, Some(claim(&newer))), None, Some(newer.clone()))),
        "no proof"
    );
    assert!(
        !verify(&change(head(0, 8, Some(claim(&newer))), Some(executed_8()), None)),
        "a claim without its certificate"
    );
    assert!(
        !verify(&change(head(0, 8, None), Some(executed_8()), Some(newer.clone()))),
        "a certificate without a claim"
    );
    assert!(!verify(&change(
        head(0, 8, Some(claim(&newer))),
        Some(executed_8()),
        Some(prepared_in(0))
    )));
    assert!(!verify(&change(head(0, 7, None), Some(executed_8()), None)));
    assert!(!verify(&change(
        head(0, 8, None),
        Some(Proof::Checkpoint(checkpointed_8(hash("other")))),
        None
    )));
    assert!(!verify(&change(
        ViewChangeHead { chain_hash: hash("other"), ..head(0, 0, None) },
        None,
        None
    )));
    let same_view = prepared_in(VIEW.0);
    assert!(
        !verify(&change(head(0, 8, Some(claim(&same_view))), Some(executed_8()), Some(same_view))),
        "prepared in the view it enters"
    );
    assert!(!good.verify(hash("another chain"), &four(), opening(), &Check));
    assert!(!good.verify(chain_id(), &Validators { epoch: Epoch(1), ..four() }, opening(), &Check));
}

#[test]
fn a_proof_is_of_its_sequence_and_of_a_quorum() {
    let verify = |proof: &Proof| proof.verify(chain_id(), &four(), &Check);
    let checkpoint = Proof::Checkpoint(checkpointed_8(hash("chain 8")));
    assert_eq!((executed_8().sequence(), checkpoint.sequence()), (Sequence(8), Sequence(8)));
    assert_eq!((verify(&executed_8()), verify(&checkpoint)), (Ok(()), Ok(())));
    for phase in [Phase::PrePrepare, Phase::Prepare] {
        let prepares = votes(Phase::Prepare, 0, 8, hash("d"), &[0, 1, 2]);
        assert_eq!(
            verify(&Proof::Commit(Certificate { phase, ..prepares })),
            Err(CertificateError::Voters),
            "{phase:?} decides nothing"
        );
    }
    let next = Validators { epoch: Epoch(1), ..four() };
    for proof in [executed_8(), checkpoint] {
        assert_eq!(proof.verify(chain_id(), &next, &Check), Err(CertificateError::Epoch));
        assert!(matches!(
            proof.verify(hash("another chain"), &four(), &Check),
            Err(CertificateError::Signature(_))
        ));
    }
}

#[test]
fn a_checkpoint_certificate_is_the_word_of_a_quorum_for_every_field() {
    let good = checkpointed_8(hash("chain 8"));
    let verify =
        |certificate: &CheckpointCertificate| certificate.verify(chain_id(), &four(), &Check);
    assert_eq!(verify(&good), Ok(()));
    for nodes in [&[][..], &[0, 1], &[0, 0, 1], &[1, 0, 2], &[0, 1, 4], &[0, 1, 2, 3, 3]] {
        assert_eq!(
            verify(&checkpoint_certificate(chain_id(), &good.state, nodes)),
            Err(CertificateError::Voters),
            "{nodes:?}"
        );
    }
    let changes: [Changed<CheckpointState>; 5] = [
        ("sequence", |s| s.sequence = Sequence(9)),
        ("chain hash", |s| s.chain_hash = hash("other")),
        ("tips", |s| s.tips[0] = tip(9, hash("other"))),
        ("root", |s| s.root = hash("other")),
        ("successor", |s| s.successor = Some(hash("successor"))),
    ];
    for (what, change) in changes {
        let mut changed = good.clone();
        change(&mut changed.state);
        assert!(matches!(verify(&changed), Err(CertificateError::Signature(_))), "{what}");
    }
}
