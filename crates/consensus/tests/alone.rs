//! One validator by itself: what it seals, and when, without anybody else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::{CREATED_MS, Check, Key, ballot, genesis, hash, payload, vertex, vote_by};
use cretoai_consensus::{
    Engine,
    engine::{Config, Execution, Input, Limits, Now, Recovered, Remembered, Timing},
};
use cretoai_types::{
    Change, CheckedVertex, Domain, Epoch, Evidence, Genesis, Hash, Item, MAX_MEMBERS, NodeId,
    Outcome, Parameters, Payload, Phase, Reconfig, Sequence, SignedReconfig, Signer, Tip,
};
use std::{sync::Arc, time::Duration};

struct Alone {
    engine: Engine,
    at: Duration,
}

impl Alone {
    fn start(genesis: &Genesis, recovered: Recovered) -> Self {
        let config = Config {
            chain_id: genesis.chain_id(),
            signers: vec![Arc::new(Key::member(0))],
            verifier: Arc::new(Check),
            timing: Timing::default(),
            limits: Limits::default(),
            seed: 1,
        };
        Self { engine: Engine::new(config, recovered), at: Duration::ZERO }
    }

    fn submit(&mut self, payload: Payload) {
        let now = self.now();
        self.engine.handle(now, Input::Submit(payload));
    }

    fn now(&self) -> Now {
        Now { at: self.at, wall_ms: CREATED_MS + 1 + self.at.as_millis() as u64 }
    }

    /// What is executed until a time.
    fn executions(&mut self, end: Duration) -> Vec<Arc<Execution>> {
        let mut executions = Vec::new();
        while self.at < end {
            self.at += Duration::from_millis(5);
            executions.extend(self.engine.end_turn(self.now()).executions);
        }
        executions
    }

    /// What becomes of payloads until a time.
    fn until(&mut self, end: Duration) -> Vec<(Hash, Outcome)> {
        let executions = self.executions(end);
        let vertices = executions.iter().flat_map(|execution| &execution.vertices);
        vertices
            .flat_map(|(vertex, outcomes)| {
                vertex.payloads().map(|(id, _)| id).zip(outcomes.iter().copied())
            })
            .collect()
    }
}

fn numbered(number: u8, valid_for_ms: u64) -> Payload {
    Payload { valid_until_ms: CREATED_MS + valid_for_ms, ..payload(number, 10) }
}

#[test]
fn what_was_left_behind_in_an_older_epoch_is_sealed_anew_unless_it_needs_not() {
    let genesis = genesis(1);
    let domain = Domain { chain_id: genesis.chain_id(), epoch: Epoch(0) };
    let [lost, executed, expired] = [
        numbered(1, 30_000),
        numbered(2, 30_000),
        Payload { valid_until_ms: CREATED_MS - 1, ..payload(3, 10) },
    ];
    let (lost_id, executed_id) = (lost.id(genesis.chain_id()), executed.id(genesis.chain_id()));
    let remembered = Remembered {
        author: NodeId(0),
        id: executed_id,
        valid_until_ms: executed.valid_until_ms,
        sequence: Sequence(0),
    };
    let key = Key::member(0);
    let vertex = CheckedVertex::seal(
        &domain,
        &key,
        NodeId(0),
        Tip::default(),
        vec![],
        1,
        vec![lost, executed, expired],
        vec![],
    );
    let recovered = Recovered {
        left_behind: vec![Arc::new(vertex)],
        recent: vec![remembered],
        ..Recovered::at_genesis(&genesis)
    };
    let mut alone = Alone::start(&genesis, recovered);
    assert_eq!(alone.until(Duration::from_secs(1)), [(lost_id, Outcome::Executed)]);
}

#[test]
fn evidence_that_its_epoch_did_not_decide_is_sealed_anew_in_the_next() {
    let genesis = genesis(1);
    let chain_id = genesis.chain_id();
    let domain = Domain { chain_id, epoch: Epoch(0) };
    let change = Change::SetParameters(Parameters { term_ms: 1_000, ..Parameters::default() });
    let reconfig =
        Reconfig { epoch: Epoch(0), valid_until_ms: CREATED_MS + 60_000, change, ready: None };
    let admin = Key::admin().sign(&reconfig.signing_message(chain_id));
    let order =
        Item::Reconfig(Box::new(SignedReconfig { reconfig, admin, new_key: None, old_key: None }));
    let vote = |digest| {
        vote_by(&Key::member(0), chain_id, ballot(0, Phase::Prepare, 0, 7, hash(digest), 0))
    };
    let evidence = Evidence::Votes(vote("a"), vote("b"));
    // The order is in the first vertex of a sequence that reaches no further than 64, and the
    // evidence in the one after these.
    let mut undecided: Vec<Arc<CheckedVertex>> = Vec::new();
    for height in 1..=65 {
        let items = match height {
            1 => vec![order.clone()],
            65 => vec![Item::Evidence(Box::new(evidence.clone()))],
            _ => vec![],
        };
        let previous = undecided.last().map_or_else(Tip::default, |vertex| vertex.tip());
        undecided.push(Arc::new(vertex(&domain, 0, &Key::member(0), previous, height, items)));
    }
    let mut alone =
        Alone::start(&genesis, Recovered { undecided, ..Recovered::at_genesis(&genesis) });
    let executions = alone.executions(Duration::from_secs(1));
    assert_eq!(executions.iter().filter(|execution| execution.successor.is_some()).count(), 1);
    let counted = executions.iter().flat_map(|execution| {
        execution.evidence.iter().map(|(_, evidence)| (execution.epoch, evidence))
    });
    assert_eq!(counted.collect::<Vec<_>>(), [(Epoch(1), &evidence)]);
}

#[test]
fn a_lane_whose_share_is_used_up_seals_again_when_time_made_room() {
    let mut genesis = genesis(1);
    genesis.parameters.recent_payloads = MAX_MEMBERS as u64;
    let mut alone = Alone::start(&genesis, Recovered::at_genesis(&genesis));
    for number in 0..MAX_MEMBERS as u8 {
        alone.submit(numbered(number, 5_000));
    }
    for number in 100..109 {
        alone.submit(numbered(number, 30_000));
    }
    let all_executed = |outcomes: &[(Hash, Outcome)], count| {
        assert_eq!(outcomes.len(), count);
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Executed), "{outcomes:?}");
    };
    all_executed(&alone.until(Duration::from_millis(4_900)), MAX_MEMBERS);
    // Nobody else decides anything meanwhile: the clock alone makes room.
    all_executed(&alone.until(Duration::from_secs(8)), 9);
}

#[test]
fn own_payloads_that_found_no_room_are_sealed_again() {
    let mut genesis = genesis(1);
    genesis.parameters.recent_payloads = MAX_MEMBERS as u64;
    let domain = Domain { chain_id: genesis.chain_id(), epoch: Epoch(0) };
    let remembered = |number: u8| {
        let payload = numbered(number, 5_000);
        let id = payload.id(genesis.chain_id());
        Remembered {
            author: NodeId(0),
            id,
            valid_until_ms: payload.valid_until_ms,
            sequence: Sequence(0),
        }
    };
    let late = numbered(100, 30_000);
    let id = late.id(genesis.chain_id());
    let vertex = CheckedVertex::seal(
        &domain,
        &Key::member(0),
        NodeId(0),
        Tip::default(),
        vec![],
        1,
        vec![late],
        vec![],
    );
    let recovered = Recovered {
        undecided: vec![Arc::new(vertex)],
        recent: (0..MAX_MEMBERS as u8).map(remembered).collect(),
        ..Recovered::at_genesis(&genesis)
    };
    let mut alone = Alone::start(&genesis, recovered);
    assert_eq!(alone.until(Duration::from_secs(4)), [(id, Outcome::Crowded)]);
    assert_eq!(alone.until(Duration::from_secs(8)), [(id, Outcome::Executed)]);
}
