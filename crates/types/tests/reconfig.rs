//! RECONFIG: each change that is valid does exactly what it says, and each reason to be void voids
//! it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Check, Key, forged, genesis_of, hash};
use cretoai_types::{
    ChainState, Change, Epoch, FaultModel, Hash, MAX_MEMBERS, NodeId, Parameters, PublicKey, Ready,
    Reconfig, Sequence, Signature, SignedReconfig, Signer, Validators, View, Void,
};

const TIME: u64 = 1_000;

/// A chain at sequence 64.
struct Chain {
    id: Hash,
    validators: Validators,
    state: ChainState,
}

impl Chain {
    fn with(n: u32, fault_model: FaultModel) -> Self {
        let genesis = genesis_of(n, fault_model);
        let (validators, mut state) = (genesis.validators(), ChainState::at_genesis(&genesis));
        let tips = state.tips.clone();
        state.executed(&validators, Sequence(64), View(0), hash("64"), TIME, tips);
        Self { id: genesis.chain_id(), validators, state }
    }

    fn of(n: u32) -> Self {
        Self::with(n, FaultModel::Byzantine)
    }

    /// An order with all signatures that it needs: `new` holds the new key, `old` the old one.
    fn order(&self, change: Change, new: Option<&Key>, old: Option<&Key>) -> SignedReconfig {
        let needs_ready = matches!(change, Change::Add { .. } | Change::Replace { .. });
        let ready = needs_ready.then(|| Ready { sequence: Sequence(64), chain_hash: hash("64") });
        self.sign(
            Reconfig { epoch: self.validators.epoch, valid_until_ms: TIME + 60_000, change, ready },
            new,
            old,
        )
    }

    fn sign(&self, reconfig: Reconfig, new: Option<&Key>, old: Option<&Key>) -> SignedReconfig {
        let message = reconfig.signing_message(self.id);
        SignedReconfig {
            admin: Key::admin().sign(&message),
            new_key: new.map(|key| key.sign(&reconfig.possession_message(self.id))),
            old_key: old.map(|key| key.sign(&message)),
            reconfig,
        }
    }

    fn apply(&self, order: &SignedReconfig) -> Result<Validators, Void> {
        self.state.judge_reconfig(order, self.id, &self.validators, TIME, &Check)
    }

    fn void(&self, order: &SignedReconfig) -> Void {
        self.apply(order).expect_err("the order is void")
    }

    /// Ends the epoch.
    fn end(&mut self, order: &SignedReconfig) {
        let next = self.apply(order).unwrap();
        self.state = self.state.opened(&self.validators, &next);
        self.validators = next;
    }

    fn ids(&self) -> Vec<u32> {
        self.validators.ids().map(|id| id.0).collect()
    }
}

fn joins(number: u32) -> (Change, Key) {
    let key = Key::member(number);
    (Change::Add { name: format!("m-{number}"), key: key.0.clone() }, key)
}

fn new_key() -> Key {
    Key::new("new")
}

fn rotate(id: u32) -> Change {
    Change::Rotate { id: NodeId(id), key: new_key().0 }
}

fn replace(id: u32) -> Change {
    Change::Replace { id: NodeId(id), key: new_key().0 }
}

/// One valid order of each kind.
fn orders(chain: &Chain) -> Vec<SignedReconfig> {
    let (add, joining) = joins(4);
    let parameters = Parameters { term_ms: 5_000, ..Parameters::default() };
    vec![
        chain.order(add, Some(&joining), None),
        chain.order(Change::Remove { id: NodeId(2) }, None, None),
        chain.order(rotate(2), Some(&new_key()), Some(&Key::member(2))),
        chain.order(replace(2), Some(&new_key()), None),
        chain.order(Change::RotateAdmin { key: new_key().0 }, Some(&new_key()), None),
        chain.order(Change::SetParameters(parameters), None, None),
    ]
}

#[test]
fn each_change_does_what_it_says_and_nothing_else() {
    let chain = Chain::of(4);
    let old = &chain.validators;
    let mut expected = Vec::new();
    for _ in 0..6 {
        expected.push(Validators { epoch: Epoch(1), ..old.clone() });
    }
    let joined = cretoai_types::Member {
        id: NodeId(4),
        name: "m-4".into(),
        key: Key::member(4).0,
        since: Epoch(1),
    };
    expected[0].members.push(joined);
    expected[0].next_id = NodeId(5);
    expected[1].members.remove(2);
    expected[2].members[2].key = new_key().0;
    expected[3].members[2].key = new_key().0;
    expected[3].members[2].since = Epoch(1);
    expected[4].admin_key = new_key().0;
    expected[5].parameters.term_ms = 5_000;
    for (order, expected) in orders(&chain).iter().zip(expected) {
        assert_eq!(chain.apply(order), Ok(expected), "{:?}", order.reconfig.change);
    }
}

#[test]
fn an_order_is_for_one_epoch_and_ends_with_its_time() {
    let chain = Chain::of(4);
    let order = &orders(&chain)[1];
    let at = |time_ms| {
        chain.state.judge_reconfig(order, chain.id, &chain.validators, time_ms, &Check).map(|_| ())
    };
    assert_eq!((at(TIME + 60_000), at(TIME + 60_001)), (Ok(()), Err(Void::Late)));
    assert_eq!((at(TIME), at(TIME - 1)), (Ok(()), Err(Void::Late)), "valid for a minute at most");
    let for_ever =
        chain.sign(Reconfig { valid_until_ms: u64::MAX, ..order.reconfig.clone() }, None, None);
    assert_eq!(chain.void(&for_ever), Void::Late);
    for epoch in [1, u64::MAX] {
        let other =
            chain.sign(Reconfig { epoch: Epoch(epoch), ..order.reconfig.clone() }, None, None);
        assert_eq!(chain.void(&other), Void::Late, "epoch {epoch}");
    }
    let mut later = Chain::of(4);
    later.end(&later.order(Change::Remove { id: NodeId(3) }, None, None));
    assert_eq!(later.void(order), Void::Late, "the epoch that it ends is over");
}

#[test]
fn every_signature_is_needed() {
    let chain = Chain::of(4);
    for order in orders(&chain) {
        let change = &order.reconfig.change;
        let without = |spoil: &dyn Fn(&mut SignedReconfig)| {
            let mut spoiled = order.clone();
            spoil(&mut spoiled);
            chain.apply(&spoiled).err()
        };
        assert_eq!(without(&|o| o.admin = forged()), Some(Void::Signature), "{change:?}");
        let message = order.reconfig.signing_message(chain.id);
        assert_eq!(
            without(&|o| o.admin = Key::member(0).sign(&message)),
            Some(Void::Signature),
            "not the admin: {change:?}"
        );
        let elsewhere = order.reconfig.signing_message(hash("another chain"));
        assert_eq!(
            without(&|o| o.admin = Key::admin().sign(&elsewhere)),
            Some(Void::Signature),
            "another chain's: {change:?}"
        );
        let new = change.new_key().map(|_| Void::Signature);
        assert_eq!(without(&|o| o.new_key = None), new, "{change:?}");
        assert_eq!(without(&|o| o.new_key = Some(forged())), new, "{change:?}");
        let old = matches!(change, Change::Rotate { .. }).then_some(Void::Signature);
        assert_eq!(without(&|o| o.old_key = None), old, "{change:?}");
        assert_eq!(without(&|o| o.old_key = Some(forged())), old, "{change:?}");
        let by_new: Signature = new_key().sign(&message);
        assert_eq!(
            without(&|o| o.old_key = Some(by_new.clone())),
            old,
            "signed by the new key: {change:?}"
        );
    }
}

#[test]
fn a_new_key_agrees_to_one_change_of_one_epoch_only() {
    let chain = Chain::of(4);
    let (change, key) = joins(4);
    let good = chain.order(change, Some(&key), None);
    assert!(chain.apply(&good).is_ok());
    let stolen = |spoil: &dyn Fn(&mut Reconfig)| {
        let mut reconfig = good.reconfig.clone();
        spoil(&mut reconfig);
        let mut order = chain.sign(reconfig, None, None);
        order.new_key.clone_from(&good.new_key);
        chain.void(&order)
    };
    let as_another = Change::Add { name: "m-5".into(), key: key.0.clone() };
    assert_eq!(stolen(&|r| r.change = as_another.clone()), Void::Signature);
    let in_place_of_another = Change::Replace { id: NodeId(0), key: key.0.clone() };
    assert_eq!(stolen(&|r| r.change = in_place_of_another.clone()), Void::Signature);
    assert_eq!(
        stolen(&|r| r.ready = Some(Ready { sequence: Sequence(0), chain_hash: chain.id })),
        Void::Signature
    );
    // The admin alone says until when.
    let mut shorter =
        chain.sign(Reconfig { valid_until_ms: TIME, ..good.reconfig.clone() }, None, None);
    shorter.new_key.clone_from(&good.new_key);
    assert!(chain.apply(&shorter).is_ok());
}

#[test]
fn a_new_key_must_know_the_chain() {
    let mut chain = Chain::of(4);
    let ready = |sequence, chain_hash| Some(Ready { sequence: Sequence(sequence), chain_hash });
    let (add, joining) = joins(4);
    for (change, key) in [(add, joining), (replace(2), new_key())] {
        let with = |chain: &Chain, ready| {
            let reconfig =
                Reconfig { epoch: Epoch(0), valid_until_ms: TIME, change: change.clone(), ready };
            chain.apply(&chain.sign(reconfig, Some(&key), None)).map(|_| ())
        };
        assert_eq!(with(&chain, ready(0, chain.id)), Ok(()), "the genesis");
        assert_eq!(with(&chain, ready(64, hash("64"))), Ok(()));
        assert_eq!(with(&chain, None), Err(Void::Ready));
        assert_eq!(with(&chain, ready(64, hash("other"))), Err(Void::Ready));
        assert_eq!(with(&chain, ready(0, hash("64"))), Err(Void::Ready));
        assert_eq!(with(&chain, ready(128, hash("128"))), Err(Void::Ready), "not executed yet");
    }
    // A sequence that 64 does not divide is known to nobody, though it is checkpointed when the
    // chain is idle.
    let tips = chain.state.tips.clone();
    chain.state.executed(&chain.validators, Sequence(65), View(0), hash("65"), TIME, tips);
    let reconfig = Reconfig {
        epoch: Epoch(0),
        valid_until_ms: TIME,
        change: replace(2),
        ready: ready(65, hash("65")),
    };
    assert_eq!(chain.void(&chain.sign(reconfig, Some(&new_key()), None)), Void::Ready);
}

#[test]
fn a_key_is_used_once_in_a_chain() {
    let mut chain = Chain::of(4);
    let with_key = |chain: &Chain, key: &Key| {
        let public: PublicKey = key.0.clone();
        let changes = [
            Change::Add { name: "m-9".into(), key: public.clone() },
            Change::Rotate { id: NodeId(0), key: public.clone() },
            Change::Replace { id: NodeId(0), key: public.clone() },
            Change::RotateAdmin { key: public },
        ];
        changes
            .map(|change| chain.apply(&chain.order(change, Some(key), Some(&Key::member(0)))).err())
    };
    let used = [Some(Void::KeyUsed); 4];
    assert_eq!(with_key(&chain, &Key::member(0)), used, "its own");
    assert_eq!(with_key(&chain, &Key::member(1)), used, "another one's");
    assert_eq!(with_key(&chain, &Key::admin()), used);
    assert_eq!(with_key(&chain, &new_key()), [None; 4]);
    chain.end(&chain.order(rotate(2), Some(&new_key()), Some(&Key::member(2))));
    chain.end(&chain.order(Change::Remove { id: NodeId(1) }, None, None));
    assert_eq!(with_key(&chain, &Key::member(2)), used, "rotated away");
    assert_eq!(with_key(&chain, &Key::member(1)), used, "removed");
    assert_eq!(with_key(&chain, &new_key()), used);
    let admin = Key::new("second admin");
    chain.end(&chain.order(Change::RotateAdmin { key: admin.0.clone() }, Some(&admin), None));
    let order = chain.order(Change::Remove { id: NodeId(0) }, None, None);
    assert_eq!(chain.void(&order), Void::Signature, "the old admin key orders nothing");
    let by_new =
        SignedReconfig { admin: admin.sign(&order.reconfig.signing_message(chain.id)), ..order };
    assert!(chain.apply(&by_new).is_ok());
    assert!(chain.state.used_key(&Key::admin().0));
}

#[test]
fn only_members_change_and_names_are_not_shared() {
    let chain = Chain::of(4);
    for id in [4, u32::MAX] {
        assert_eq!(
            chain.void(&chain.order(Change::Remove { id: NodeId(id) }, None, None)),
            Void::Member
        );
        assert_eq!(
            chain.void(&chain.order(rotate(id), Some(&new_key()), Some(&Key::member(4)))),
            Void::Member
        );
        assert_eq!(chain.void(&chain.order(replace(id), Some(&new_key()), None)), Void::Member);
    }
    let named = |name: &str| {
        chain.apply(&chain.order(
            Change::Add { name: name.into(), key: new_key().0 },
            Some(&new_key()),
            None,
        ))
    };
    assert_eq!(named("m-2"), Err(Void::Member));
    assert_eq!(named(""), Err(Void::Member));
    assert_eq!(named(&"x".repeat(254)), Err(Void::Member));
    assert!(named(&"x".repeat(253)).is_ok());
}

#[test]
fn ids_are_given_once_in_order() {
    let mut chain = Chain::of(4);
    chain.end(&chain.order(Change::Remove { id: NodeId(3) }, None, None));
    let (change, key) = joins(7);
    chain.end(&chain.order(change, Some(&key), None));
    assert_eq!(chain.ids(), [0, 1, 2, 4], "3 is never given again");
    chain.end(&chain.order(Change::Remove { id: NodeId(4) }, None, None));
    chain.end(&chain.order(Change::Remove { id: NodeId(0) }, None, None));
    let (change, key) = joins(8);
    // Its name is free again.
    let Change::Add { key: public, .. } = change else { unreachable!() };
    chain.end(&chain.order(Change::Add { name: "m-0".into(), key: public }, Some(&key), None));
    assert_eq!((chain.ids(), chain.validators.next_id), (vec![1, 2, 5], NodeId(6)));
    assert_eq!(
        (chain.validators.position(NodeId(5)), chain.validators.position(NodeId(4))),
        (Some(2), None)
    );
}

#[test]
fn the_number_of_validators_stays_possible() {
    let full = Chain::of(MAX_MEMBERS as u32);
    let (change, key) = joins(31);
    assert_eq!(full.void(&full.order(change, Some(&key), None)), Void::Count);
    let mut shrinking = Chain::of(3);
    for id in [0, 1] {
        shrinking.end(&shrinking.order(Change::Remove { id: NodeId(id) }, None, None));
    }
    assert_eq!(shrinking.ids(), [2], "two are a step between three and one");
    assert_eq!(
        shrinking.void(&shrinking.order(Change::Remove { id: NodeId(2) }, None, None)),
        Void::Count
    );
    for number in [3, 4, 5] {
        let (change, key) = joins(number);
        shrinking.end(&shrinking.order(change, Some(&key), None));
    }
    assert_eq!(shrinking.ids(), [2, 3, 4, 5], "one grows to four");

    let mut crash = Chain::with(1, FaultModel::Crash);
    for number in [1, 2] {
        let (change, key) = joins(number);
        crash.end(&crash.order(change, Some(&key), None));
    }
    let (change, key) = joins(3);
    assert_eq!(
        crash.void(&crash.order(change, Some(&key), None)),
        Void::Count,
        "the crash model ends at three"
    );
}

#[test]
fn parameters_must_be_sound() {
    let chain = Chain::of(4);
    let set = |parameters| {
        chain
            .apply(&chain.order(Change::SetParameters(parameters), None, None))
            .map(|next| next.parameters)
    };
    let least = Parameters {
        checkpoint_interval: 1,
        window: 2,
        term_sequences: 1,
        term_ms: 1,
        recent_payloads: 31,
    };
    assert_eq!(set(least), Ok(least));
    for unsound in [
        Parameters { checkpoint_interval: 0, ..least },
        Parameters { window: 1, ..least },
        Parameters { window: 0, ..least },
        Parameters { term_sequences: 0, ..least },
        Parameters { term_ms: 0, ..least },
        Parameters { recent_payloads: 30, ..least },
    ] {
        assert_eq!(set(unsound), Err(Void::Parameters), "{unsound:?}");
    }
}

#[test]
fn extreme_parameters_are_judged_without_overflow() {
    let chain = Chain::of(4);
    for checkpoint_interval in [u64::MAX, u64::MAX / 2 + 1, 1 << 63] {
        let parameters =
            Parameters { checkpoint_interval, window: u64::MAX, ..Parameters::default() };
        let order = chain.order(Change::SetParameters(parameters), None, None);
        assert_eq!(
            chain.void(&order),
            Void::Parameters,
            "{checkpoint_interval}: the window is no two intervals"
        );
    }
}

#[test]
fn the_last_leader_goes_on_if_it_stays() {
    let next = |origin: u64, change: Change, new: Option<&Key>| {
        let mut chain = Chain::of(4);
        chain.state.leaders.newest_origin = View(origin);
        chain.apply(&chain.order(change, new, None)).unwrap()
    };
    let (add, joining) = joins(4);
    for origin in 0..9 {
        let grown = next(origin, add.clone(), Some(&joining));
        assert_eq!(
            (grown.first, grown.leader(View(0))),
            ((origin % 4) as u32, NodeId((origin % 4) as u32))
        );
        let shrunk = next(origin, Change::Remove { id: NodeId(1) }, None);
        let expected = match origin % 4 {
            1 => NodeId(0),
            last => NodeId(last as u32),
        };
        assert_eq!(
            shrunk.leader(View(0)),
            expected,
            "origin {origin}: who leads is a member, not a position"
        );
    }
    // In the epoch after, too.
    let mut chain = Chain::of(4);
    chain.state.leaders.newest_origin = View(3);
    chain.end(&chain.order(Change::Remove { id: NodeId(0) }, None, None));
    assert_eq!(
        (
            chain.validators.first,
            chain.validators.leader(View(0)),
            chain.validators.leader(View(1))
        ),
        (2, NodeId(3), NodeId(1))
    );
    chain.state.leaders.newest_origin = View(2);
    chain.end(&chain.order(Change::Remove { id: NodeId(3) }, None, None));
    assert_eq!(chain.validators.leader(View(0)), NodeId(2));
}
