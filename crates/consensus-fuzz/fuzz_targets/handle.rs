//! Three honest engines and one hostile member that knows all that it hears and signs whatever the
//! bytes say.
//!
//! The bytes are a script: deliver, drop, repeat or delay what was sent, let time pass, submit
//! payloads, and send anything as the hostile member. Checked: no panic, no engine thinks that it
//! diverged, all engines decide the same, no honest member signs two digests in one place, and
//! nothing is held beyond its bound.

#![no_main]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::{
    CREATED_MS, Check, Key, certificate, checkpoint, forged, genesis, hash, signed_head, vote_by,
};
use cretoai_consensus::{
    Engine, Message, Recalled, Status,
    engine::{Config, Input, Limits, Now, Recipient, Recovered, Timing},
};
use cretoai_types::{
    Ballot, Certificate, Change, CheckedVertex, CheckpointState, Domain, Epoch, Evidence, Hash,
    Height, Item, Link, NewView, NodeId, Parameters, Payload, Phase, Prepared, Proof, Proposal,
    Reconfig, Record, Sequence, Signature, SignedHeader, SignedReconfig, Signer, Tip, Validators,
    View, ViewChange, ViewChangeHead, Vote, decode,
};
use libfuzzer_sys::fuzz_target;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

const N: u32 = 4;
const MAX_STEPS: usize = 400;
const MAX_QUEUE: usize = 2_000;
/// So many of each kind of thing that was heard are remembered.
const HEARD: usize = 16;

/// The script. When it ends, zeros follow, and then the run.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    fn pick<T: Clone>(&mut self, from: &VecDeque<T>) -> Option<T> {
        let index = self.below(from.len());
        from.get(index).cloned()
    }

    /// A number near `about`, or an extreme one.
    fn number(&mut self, about: u64) -> u64 {
        match self.byte() {
            0 => about,
            1 => about.wrapping_add(1),
            2 => about.wrapping_sub(1),
            3 => u64::MAX,
            4 => u64::MAX - 1,
            5 => 0,
            6 => 64,
            byte => u64::from(byte) - 7,
        }
    }
}

fn remember<T>(heard: &mut VecDeque<T>, thing: T) {
    if heard.len() >= HEARD {
        heard.pop_front();
    }
    heard.push_back(thing);
}

/// What the hostile member has heard or made, and may say again.
#[derive(Default)]
struct Heard {
    messages: VecDeque<Message>,
    proposals: VecDeque<Proposal>,
    votes: VecDeque<Vote>,
    tips: VecDeque<(NodeId, Tip)>,
    headers: VecDeque<SignedHeader>,
    heads: VecDeque<(ViewChangeHead, Signature)>,
    certificates: VecDeque<Certificate>,
    prepared: VecDeque<Prepared>,
    proofs: VecDeque<Proof>,
    records: VecDeque<Record>,
}

struct World {
    chain_id: Hash,
    validators: Validators,
    hostile: u32,
    engines: Vec<Option<Engine>>,
    queue: VecDeque<(u32, u32, Message)>,
    now: Duration,
    heard: Heard,
    decided: BTreeMap<Sequence, Hash>,
    signed: BTreeMap<(NodeId, Epoch, bool, View, Sequence), Hash>,
    submitted: u8,
}

impl World {
    fn new(hostile: u32) -> Self {
        let genesis = genesis(N);
        let engine = |index: u32| {
            let config = Config {
                chain_id: genesis.chain_id(),
                signers: vec![Arc::new(Key::member(index))],
                verifier: Arc::new(Check),
                timing: Timing::default(),
                limits: Limits { lane: 32, unacknowledged: 8, pool_bytes: 4096 },
                seed: u64::from(index),
            };
            (index != hostile).then(|| Engine::new(config, Recovered::at_genesis(&genesis)))
        };
        let mut world = Self {
            chain_id: genesis.chain_id(),
            validators: genesis.validators(),
            hostile,
            engines: (0..N).map(engine).collect(),
            queue: VecDeque::new(),
            now: Duration::from_secs(1),
            heard: Heard::default(),
            decided: BTreeMap::new(),
            signed: BTreeMap::new(),
            submitted: 0,
        };
        world.pass(Duration::from_millis(1));
        world.deliver_all();
        world
    }

    fn at(&self) -> Now {
        Now { at: self.now, wall_ms: CREATED_MS + self.now.as_millis() as u64 }
    }

    fn honest(&self) -> impl Iterator<Item = u32> + use<> {
        let hostile = self.hostile;
        (0..N).filter(move |node| *node != hostile)
    }

    fn key(&self) -> Key {
        Key::member(self.hostile)
    }

    fn handle(&mut self, node: u32, input: Option<Input>) {
        let now = self.at();
        let Some(engine) = self.engines.get_mut(node as usize).and_then(Option::as_mut) else {
            return;
        };
        if let Some(input) = input {
            engine.handle(now, input);
        }
        let turn = engine.end_turn(now);
        let sizes = engine.sizes();
        assert_eq!(turn.diverged, None, "one liar of four");
        assert!(sizes.pool_bytes <= 4096 + 256 * 1024, "{sizes:?}");
        assert!(sizes.undecided_vertices <= 4 * (32 + 64), "{sizes:?}");
        assert!(sizes.other_vertices <= 4 * (64 + 64 * 4 + 64 * 2), "{sizes:?}");
        assert!(
            sizes.waiting_items <= 64 && sizes.learnt_records <= 64 && sizes.votes <= 16,
            "{sizes:?}"
        );
        for execution in &turn.executions {
            let sequence = execution.record.proposal.sequence;
            let decided = *self.decided.entry(sequence).or_insert(execution.chain_hash);
            assert_eq!(decided, execution.chain_hash, "sequence {sequence} is decided twice");
            remember(&mut self.heard.records, execution.record.clone());
            if let Some(proof) = &execution.proof {
                remember(&mut self.heard.proofs, proof.clone());
            }
        }
        for (to, message) in turn.sends {
            self.check_signed(node, &message);
            match to {
                Recipient::One(to) => self.enqueue(node, to.0, message),
                Recipient::All => (0..N)
                    .filter(|to| *to != node)
                    .for_each(|to| self.enqueue(node, to, message.clone())),
            }
        }
    }

    fn check_signed(&mut self, node: u32, message: &Message) {
        let (Message::Vote(vote) | Message::PrePrepare { vote, .. }) = message else { return };
        let Ballot { epoch, phase, view, sequence, digest, voter } = vote.ballot;
        assert_eq!(voter, NodeId(node));
        let first = *self
            .signed
            .entry((voter, epoch, phase == Phase::Commit, view, sequence))
            .or_insert(digest);
        assert_eq!(
            first, digest,
            "member {node} signed two digests for view {view}, sequence {sequence}"
        );
    }

    fn enqueue(&mut self, from: u32, to: u32, message: Message) {
        if to == self.hostile {
            self.hear(message);
        } else if self.queue.len() < MAX_QUEUE {
            self.queue.push_back((from, to, message));
        }
    }

    fn hear(&mut self, message: Message) {
        let heard = &mut self.heard;
        match &message {
            Message::Vertex(vertex) | Message::Fetched(vertex) => {
                let domain = Domain { chain_id: self.chain_id, epoch: vertex.header.epoch };
                let header = &vertex.header;
                remember(
                    &mut heard.tips,
                    (header.author, Tip { height: header.height, id: header.id(&domain) }),
                );
                remember(
                    &mut heard.headers,
                    SignedHeader { header: header.clone(), signature: vertex.signature.clone() },
                );
            }
            Message::PrePrepare { proposal, vote } => {
                remember(&mut heard.proposals, proposal.clone());
                remember(&mut heard.votes, vote.clone());
            }
            Message::Vote(vote) => remember(&mut heard.votes, vote.clone()),
            Message::ViewChange(change) => {
                remember(&mut heard.heads, (change.head.clone(), change.signature.clone()));
                change
                    .prepared
                    .iter()
                    .for_each(|prepared| remember(&mut heard.prepared, prepared.clone()));
                change.proof.iter().for_each(|proof| remember(&mut heard.proofs, proof.clone()));
            }
            Message::NewView(new_view) => {
                new_view.heads.iter().for_each(|head| remember(&mut heard.heads, head.clone()))
            }
            _ => {}
        }
        remember(&mut heard.messages, message);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in self.honest() {
            self.handle(node, None);
        }
    }

    fn deliver(&mut self, index: usize) {
        if let Some((from, to, message)) = self.queue.remove(index) {
            self.handle(to, Some(Input::Message { from: NodeId(from), message }));
        }
    }

    fn deliver_all(&mut self) {
        for _ in 0..200 {
            if self.queue.is_empty() {
                break;
            }
            self.deliver(0);
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 16 {
            0 | 1 => self.deliver_all(),
            2 => self.pass(Duration::from_millis(1 + u64::from(script.byte()))),
            3 => self.pass(Duration::from_millis(7)),
            4 => {
                let node = script.below(N as usize) as u32;
                self.submitted = self.submitted.wrapping_add(1);
                let payload = Payload {
                    valid_until_ms: self.at().wall_ms + 1_000,
                    ..common::payload(self.submitted, 1 + script.below(64))
                };
                self.handle(node, Some(Input::Submit(payload)));
            }
            5 => {
                let index = script.below(self.queue.len());
                self.deliver(index);
            }
            6 => drop(self.queue.remove(script.below(self.queue.len()))),
            7 => {
                let repeated = script.pick(&self.queue);
                self.queue.extend(repeated);
            }
            8 => {
                let (node, peer) =
                    (script.below(N as usize) as u32, script.below(N as usize) as u32);
                self.handle(node, Some(Input::Connected(NodeId(peer))));
            }
            9 if script.byte() == 0 => {
                let node = script.below(N as usize) as u32;
                self.handle(node, Some(Input::Resign));
            }
            _ => {
                let to = script.below(N as usize + 1) as u32;
                let Some(message) = self.hostile_message(script) else { return };
                let receivers: Vec<u32> = if to == N { self.honest().collect() } else { vec![to] };
                self.hear(message.clone());
                for to in receivers {
                    self.handle(
                        to,
                        Some(Input::Message {
                            from: NodeId(self.hostile),
                            message: message.clone(),
                        }),
                    );
                }
            }
        }
    }

    // ---- what the hostile member says

    fn executed(&self) -> u64 {
        self.engines.iter().flatten().map(|engine| engine.executed().0).max().unwrap_or(0)
    }

    fn view(&self) -> u64 {
        self.engines.iter().flatten().map(|engine| engine.view().0).max().unwrap_or(0)
    }

    fn epoch(&self, script: &mut Script<'_>) -> u64 {
        if script.byte() < 224 { 0 } else { script.number(0) }
    }

    fn digest(&self, script: &mut Script<'_>, domain: &Domain) -> Hash {
        match script.byte() % 3 {
            0 => hash("nothing"),
            1 => script
                .pick(&self.heard.proposals)
                .map_or(Hash::ZERO, |proposal| proposal.digest(domain)),
            _ => script.pick(&self.heard.votes).map_or(Hash::ZERO, |vote| vote.ballot.digest),
        }
    }

    fn chain_hash(&self, script: &mut Script<'_>) -> Hash {
        match script.byte() % 4 {
            0 => hash("nothing"),
            1 => self.chain_id,
            2 => self.decided.values().next_back().copied().unwrap_or(self.chain_id),
            _ => self
                .decided
                .values()
                .nth(script.below(self.decided.len()))
                .copied()
                .unwrap_or(self.chain_id),
        }
    }

    fn tips(&self, script: &mut Script<'_>) -> Vec<Tip> {
        let tip = |script: &mut Script<'_>| match script.byte() % 4 {
            0 => Tip::default(),
            1 => Tip { height: Height(script.number(1)), id: hash("nothing") },
            _ => script.pick(&self.heard.tips).map_or_else(Tip::default, |(_, tip)| tip),
        };
        let base = self
            .engines
            .iter()
            .flatten()
            .next()
            .map(|engine| engine.state().tips.clone())
            .unwrap_or_default();
        match script.byte() % 8 {
            0 => (0..script.below(6)).map(|_| tip(script)).collect(),
            1 => (0..N).map(|_| tip(script)).collect(),
            _ => {
                let mut tips = base;
                for (author, tip) in (0..1 + script.below(4))
                    .filter_map(|_| script.pick(&self.heard.tips))
                    .collect::<Vec<_>>()
                {
                    if let Some(slot) = tips.get_mut(author.0 as usize) {
                        *slot = tip;
                    }
                }
                tips
            }
        }
    }

    fn proposal(&self, script: &mut Script<'_>) -> Proposal {
        if let (0, Some(proposal)) = (script.byte() % 3, script.pick(&self.heard.proposals)) {
            return proposal;
        }
        Proposal {
            sequence: Sequence(script.number(self.executed() + 1)),
            prev: self.chain_hash(script),
            time_ms: script.number(self.at().wall_ms),
            origin_view: View(script.number(self.view())),
            cut: self.tips(script),
        }
    }

    fn vote(&self, script: &mut Script<'_>) -> Vote {
        let epoch = Epoch(self.epoch(script));
        let ballot = Ballot {
            epoch,
            phase: [Phase::PrePrepare, Phase::Prepare, Phase::Commit][script.below(3)],
            view: View(script.number(self.view())),
            sequence: Sequence(script.number(self.executed() + 1)),
            digest: self.digest(script, &Domain { chain_id: self.chain_id, epoch }),
            voter: NodeId(self.hostile),
        };
        vote_by(&self.key(), self.chain_id, ballot)
    }

    /// One of the honest votes that were heard and its own: a quorum only if a quorum voted.
    fn certificate(&self, script: &mut Script<'_>) -> Certificate {
        if let (0, Some(certificate)) = (script.byte() % 2, script.pick(&self.heard.certificates)) {
            return certificate;
        }
        let vote = script.pick(&self.heard.votes).unwrap_or_else(|| self.vote(script));
        let Ballot { epoch, phase, view, sequence, digest, .. } = vote.ballot;
        let phase = if phase == Phase::PrePrepare { Phase::Prepare } else { phase };
        let own = certificate(
            self.chain_id,
            &self.validators,
            phase,
            view.0,
            sequence.0,
            digest,
            &[self.hostile],
        );
        let mut votes: BTreeMap<NodeId, Signature> = own.votes.into_iter().collect();
        for heard in &self.heard.votes {
            let ballot = heard.ballot;
            let commits = (ballot.phase == Phase::Commit) == (phase == Phase::Commit);
            if commits
                && (ballot.epoch, ballot.view, ballot.sequence, ballot.digest)
                    == (epoch, view, sequence, digest)
            {
                votes.insert(ballot.voter, heard.signature.clone());
            }
        }
        Certificate { epoch, phase, view, sequence, digest, votes: votes.into_iter().collect() }
    }

    fn prepared(&self, script: &mut Script<'_>) -> Option<Prepared> {
        match script.byte() % 3 {
            0 => None,
            1 => script.pick(&self.heard.prepared),
            _ => Some(Prepared {
                certificate: self.certificate(script),
                proposal: self.proposal(script),
            }),
        }
    }

    fn proof(&self, script: &mut Script<'_>) -> Option<Proof> {
        match script.byte() % 3 {
            0 => None,
            1 => script.pick(&self.heard.proofs),
            _ => Some(Proof::Commit(self.certificate(script))),
        }
    }

    fn head(
        &self,
        script: &mut Script<'_>,
        view: u64,
        prepared: Option<&Prepared>,
    ) -> (ViewChangeHead, Signature) {
        let claim =
            prepared.map(|prepared| (prepared.certificate.view, prepared.certificate.digest));
        let head = ViewChangeHead {
            epoch: Epoch(self.epoch(script)),
            view: View(view),
            node: NodeId(self.hostile),
            executed: Sequence(script.number(self.executed())),
            chain_hash: self.chain_hash(script),
            prepared: if script.byte() < 200 {
                claim
            } else {
                Some((View(script.number(0)), hash("nothing")))
            },
        };
        signed_head(self.chain_id, head)
    }

    fn new_view(&self, script: &mut Script<'_>) -> NewView {
        let view = script.number(self.view());
        let prepared = self.prepared(script);
        let own = self.head(script, view, prepared.as_ref());
        let mut heads: BTreeMap<NodeId, (ViewChangeHead, Signature)> = self
            .heard
            .heads
            .iter()
            .filter(|(head, _)| head.view == View(view))
            .map(|head| (head.0.node, head.clone()))
            .collect();
        heads.insert(NodeId(self.hostile), own);
        let mut heads: Vec<_> = heads.into_values().collect();
        while heads.len() > 3 {
            heads.remove(script.below(heads.len()));
        }
        let epoch = Epoch(0);
        let signature =
            self.key().sign(&NewView::signing_message(epoch, View(view), &heads, self.chain_id));
        NewView { epoch, view: View(view), heads, proof: self.proof(script), prepared, signature }
    }

    fn item(&self, script: &mut Script<'_>) -> Option<Item> {
        let evidence = match script.byte() % 5 {
            0 => Evidence::Votes(script.pick(&self.heard.votes)?, script.pick(&self.heard.votes)?),
            1 => Evidence::Votes(self.vote(script), self.vote(script)),
            2 => Evidence::Fork(
                Box::new(script.pick(&self.heard.headers)?),
                Box::new(script.pick(&self.heard.headers)?),
            ),
            3 => {
                let (head, signature) = script.pick(&self.heard.heads)?;
                Evidence::Concealed(script.pick(&self.heard.votes)?, head, signature)
            }
            _ => {
                let parameters = Parameters { window: script.number(256), ..Parameters::default() };
                let (epoch, valid_until_ms) =
                    (Epoch(script.number(0)), script.number(self.at().wall_ms));
                let reconfig = Reconfig {
                    epoch,
                    valid_until_ms,
                    change: Change::SetParameters(parameters),
                    ready: None,
                };
                let admin = self.key().sign(&reconfig.signing_message(self.chain_id));
                return Some(Item::Reconfig(Box::new(SignedReconfig {
                    reconfig,
                    admin,
                    new_key: None,
                    old_key: None,
                })));
            }
        };
        Some(Item::Evidence(Box::new(evidence)))
    }

    fn vertex(&self, script: &mut Script<'_>) -> CheckedVertex {
        let own: VecDeque<Tip> = self
            .heard
            .tips
            .iter()
            .filter(|(author, _)| *author == NodeId(self.hostile))
            .map(|(_, tip)| *tip)
            .collect();
        let previous = match script.byte() % 8 {
            0 => Tip::default(),
            1 => Tip { height: Height(script.number(0)), id: hash("nothing") },
            2 | 3 => script.pick(&own).unwrap_or_default(),
            _ => own.back().copied().unwrap_or_default(),
        };
        // No vertex follows the highest there can be.
        let previous = Tip { height: previous.height.min(Height(u64::MAX - 1)), ..previous };
        let links = if script.byte() < 200 {
            Vec::new()
        } else {
            let tip = Tip { height: Height(script.number(1)), id: hash("nothing") };
            vec![Link { author: NodeId(script.below(5) as u32), tip }]
        };
        let payloads = (0..script.below(3))
            .map(|number| common::payload(number as u8, script.below(9)))
            .collect();
        let items = (0..script.below(6)).filter_map(|_| self.item(script)).collect();
        let domain = Domain { chain_id: self.chain_id, epoch: Epoch(self.epoch(script)) };
        let stamp = u64::from(script.byte());
        CheckedVertex::seal(
            &domain,
            &self.key(),
            NodeId(self.hostile),
            previous,
            links,
            stamp,
            payloads,
            items,
        )
    }

    fn hostile_message(&self, script: &mut Script<'_>) -> Option<Message> {
        let executed = self.executed();
        Some(match script.byte() % 18 {
            0 | 1 => Message::Vertex(Arc::new(self.vertex(script).vertex().clone())),
            2 => Message::Fetched(Arc::new(self.vertex(script).vertex().clone())),
            3 => Message::Acknowledge { epoch: Epoch(self.epoch(script)), tips: self.tips(script) },
            4 | 5 => {
                let proposal = self.proposal(script);
                let digest = proposal.digest(&Domain { chain_id: self.chain_id, epoch: Epoch(0) });
                let mut ballot = self.vote(script).ballot;
                (ballot.phase, ballot.digest, ballot.sequence) =
                    (Phase::PrePrepare, digest, proposal.sequence);
                Message::PrePrepare { proposal, vote: vote_by(&self.key(), self.chain_id, ballot) }
            }
            6 | 7 => Message::Vote(self.vote(script)),
            8 => Message::Status(Status {
                epoch: Epoch(self.epoch(script)),
                view: View(script.number(self.view())),
                active: script.byte() % 2 == 0,
                want: View(script.number(self.view())),
                signs: script.byte() % 2 == 0,
                executed: Sequence(script.number(executed)),
                chain_hash: self.chain_hash(script),
                stable: Sequence(script.number(0)),
                voted: [None, Some(Phase::Prepare), Some(Phase::Commit)][script.below(3)],
                acknowledged: self.tips(script),
                clock_ms: script.number(self.at().wall_ms),
            }),
            9 => {
                let view = script.number(self.view() + 1);
                let prepared = self.prepared(script);
                let (head, signature) = self.head(script, view, prepared.as_ref());
                Message::ViewChange(Arc::new(ViewChange {
                    head,
                    signature,
                    proof: self.proof(script),
                    prepared,
                }))
            }
            10 => Message::NewView(Arc::new(self.new_view(script))),
            11 => {
                let state = CheckpointState {
                    epoch: Epoch(self.epoch(script)),
                    sequence: Sequence(script.number(executed)),
                    chain_hash: self.chain_hash(script),
                    tips: self.tips(script),
                    root: hash("root"),
                    successor: (script.byte() > 200).then(|| hash("successor")),
                };
                Message::Checkpoint(checkpoint(self.chain_id, &state, self.hostile))
            }
            12 => {
                let first = script.below(self.heard.records.len());
                let records: Vec<Record> = self
                    .heard
                    .records
                    .iter()
                    .skip(first)
                    .take(1 + script.below(4))
                    .cloned()
                    .collect();
                Message::Records {
                    epoch: Epoch(self.epoch(script)),
                    records,
                    proof: self.proof(script)?,
                }
            }
            13 => Message::Recall,
            14 => Message::Recalled(Box::new(Recalled {
                epoch: Epoch(self.epoch(script)),
                view_change: script.pick(&self.heard.heads),
                votes: (0..script.below(6))
                    .filter_map(|_| script.pick(&self.heard.votes))
                    .collect(),
                checkpoint: None,
                vertex: script.pick(&self.heard.headers),
            })),
            15 => {
                // What another one said, or said with a signature of nobody.
                match script.pick(&self.heard.messages)? {
                    Message::Vote(vote) if script.byte() % 2 == 0 => {
                        Message::Vote(Vote { signature: forged(), ..vote })
                    }
                    other => other,
                }
            }
            16 => {
                let bytes: Vec<u8> = (0..script.below(200)).map(|_| script.byte()).collect();
                decode(&bytes).ok()?
            }
            _ => Message::FetchLane {
                author: NodeId(0),
                above: Height(script.number(0)),
                up_to: Height(script.number(1)),
            },
        })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut script = Script(bytes);
    let mut world = World::new(u32::from(script.byte()) % N);
    for _ in 0..MAX_STEPS {
        if script.0.is_empty() {
            break;
        }
        world.step(&mut script);
    }
    // Whatever was done: time passes, everything arrives, and nothing breaks.
    for _ in 0..8 {
        world.pass(Duration::from_millis(100));
        world.deliver_all();
    }
});
