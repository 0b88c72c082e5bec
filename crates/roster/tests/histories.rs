//! Random histories of rollouts in a world that can fail: faults, drains, a second operator, bad
//! templates. The world knows the truth, the budget only what it is shown; each planted breakage of
//! a rule has to be caught.
//!
//! `ROSTER_HISTORIES=100000 cargo test -p cretoai-roster --release -- --ignored` is the long form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_roster::{
    account::{Account, Answer, Heard, PodFacts, Role, Sighting},
    budget::{Allowance, Budget, LEAST_MS, RETURN_LIMIT_MS},
    mutants::{Mutant, plant},
    roll::{self, Roll},
    rollout,
    roster::{Roster, Validator},
};
use cretoai_types::{FaultModel, Hash, NodeId, PublicKey, Quorum};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet};

const TICK_MS: u64 = 2_000;
const TICKS: u32 = 240;
/// Ticks in which a healed world has to come to its end.
const LAST_TICKS: u32 = 1_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Template {
    Good,
    /// Its process dies 14 seconds after each start.
    Dies,
    /// Its process dies 20 seconds after its first start only.
    DiesOnce,
    /// Its process runs and serves nothing.
    Hangs,
    /// Its container never starts.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting(u64),
    Up(u64),
}

#[derive(Clone, Debug)]
struct Node {
    uid: u64,
    revision: usize,
    made: u64,
    phase: Phase,
    restarts: u32,
    leaving: Option<u64>,
    ready_since: Option<u64>,
    // Faults.
    dead: bool,
    isolated: bool,
    unreachable: bool,
    /// It looks behind between two answers, and votes.
    looks_behind: bool,
    dissents: bool,
    suspected: bool,
}

struct World {
    random: StdRng,
    roster: Roster,
    nodes: Vec<Node>,
    templates: Vec<Template>,
    /// Whether all was well when the newest template came.
    clean_start: bool,
    /// Voters that an operator took away for the newest template.
    taken: Vec<(usize, u64)>,
    now: u64,
    head: u64,
    divided: bool,
    uids: u64,
    // What the operator remembers in the status.
    absent_since: BTreeMap<NodeId, u64>,
    known_head: u64,
    suspects: BTreeSet<NodeId>,
    before: BTreeMap<NodeId, Sighting>,
    two_operators: bool,
    accepted: bool,
}

type Failure = String;

impl World {
    fn new(seed: u64, n: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let validators = (0..n).map(|ordinal| Validator {
            id: NodeId(u32::try_from(ordinal).unwrap() + 10),
            name: format!("prod-{ordinal}"),
            key: PublicKey::from_slice(&[7; 2592]).unwrap(),
            ordinal: Some(ordinal),
        });
        let roster = Roster {
            chain: Hash::of_bytes(b"chain"),
            validators: validators.collect(),
            quorum: Quorum::new(n, FaultModel::Byzantine),
        };
        let node = |uid| Node {
            uid,
            revision: 0,
            made: 0,
            phase: Phase::Up(0),
            restarts: 0,
            leaving: None,
            ready_since: Some(0),
            dead: false,
            isolated: false,
            unreachable: false,
            looks_behind: false,
            dissents: false,
            suspected: false,
        };
        let two_operators = random.random_bool(0.3);
        Self {
            random,
            roster,
            nodes: (0..n as u64).map(node).collect(),
            templates: vec![Template::Good],
            clean_start: true,
            taken: Vec::new(),
            now: 1_000_000,
            head: 1_000,
            divided: false,
            uids: 1_000,
            absent_since: BTreeMap::new(),
            known_head: 0,
            suspects: BTreeSet::new(),
            before: BTreeMap::new(),
            two_operators,
            accepted: false,
        }
    }

    fn serves(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        matches!(node.phase, Phase::Up(_)) && self.templates[node.revision] != Template::Hangs
    }

    fn checks(&self, at: usize) -> bool {
        matches!(self.nodes[at].phase, Phase::Up(since) if self.now - since < 4_000)
    }

    /// Whether its votes reach the others.
    fn connected(&self, at: usize) -> bool {
        self.serves(at) && !self.checks(at) && !self.nodes[at].isolated
    }

    /// Whether an honest vote of it reaches the others.
    fn votes(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        self.connected(at) && !node.dissents && !node.suspected
    }

    fn is_ready(&self, at: usize) -> bool {
        let hears = (0..self.nodes.len()).filter(|at| self.connected(*at)).count();
        self.connected(at) && hears >= self.roster.quorum.q
    }

    /// Those of whom `which` is true and whom nobody ends, without `target`.
    fn stay(&self, target: usize, which: impl Fn(usize) -> bool) -> usize {
        (0..self.nodes.len())
            .filter(|at| *at != target && self.nodes[*at].leaving.is_none() && which(*at))
            .count()
    }

    fn tick(&mut self) {
        self.now += TICK_MS;
        let newest = self.templates.len() - 1;
        for at in 0..self.nodes.len() {
            let kind = self.templates[self.nodes[at].revision];
            let now = self.now;
            let node = &mut self.nodes[at];
            if node.leaving.is_some_and(|time| time <= now) {
                self.uids += 1;
                *node = Node {
                    uid: self.uids,
                    revision: newest,
                    made: now,
                    phase: Phase::Starting(now + 4_000),
                    restarts: 0,
                    leaving: None,
                    ready_since: None,
                    ..node.clone()
                };
                continue;
            }
            match node.phase {
                _ if node.dead => node.phase = Phase::Starting(u64::MAX),
                Phase::Starting(u64::MAX) => node.phase = Phase::Starting(now),
                Phase::Starting(time) if time <= now && kind != Template::Never => {
                    node.phase = Phase::Up(now);
                }
                Phase::Up(since) => {
                    let life = match kind {
                        Template::Dies => 14_000,
                        Template::DiesOnce if node.restarts == 0 => 20_000,
                        _ => u64::MAX,
                    };
                    if now - since >= life {
                        node.restarts += 1;
                        node.phase = Phase::Starting(now + 6_000);
                    }
                }
                Phase::Starting(_) => {}
            }
        }
        for at in 0..self.nodes.len() {
            let ready = self.is_ready(at);
            let since = self.nodes[at].ready_since;
            self.nodes[at].ready_since = ready.then(|| since.unwrap_or(self.now));
        }
        if (0..self.nodes.len()).filter(|at| self.votes(*at)).count() >= self.roster.quorum.q {
            self.head += 3;
        }
    }

    fn account(&self, at: usize) -> Account {
        let node = &self.nodes[at];
        let lies = node.dissents || (self.divided && at.is_multiple_of(2));
        let hash = |sequence: u64| format!("{}-{sequence}", if lies { "lie" } else { "h" });
        let others = (0..self.nodes.len()).filter(|other| *other != at);
        let hears = others.map(|other| {
            let connected = self.connected(other) && !node.isolated;
            Heard {
                name: format!("prod-{other}"),
                connected,
                sequence: if node.looks_behind { self.head + 200 } else { self.head },
                ago_ms: Some(if connected { 100 } else { 5_000 }),
            }
        });
        let suspects = self.roster.validators.iter().zip(&self.nodes);
        Account {
            role: if self.checks(at) { Role::Checking } else { Role::Validator },
            chain: Some(self.roster.chain.to_string()),
            epoch: 0,
            view: 0,
            leader: Some("prod-0".into()),
            sequence: self.head,
            chain_hash: hash(self.head),
            recent: (self.head - 3..=self.head).map(|at| (at, hash(at))).collect(),
            suspected: suspects
                .filter(|(_, node)| node.suspected)
                .map(|(validator, _)| validator.name.clone())
                .collect(),
            hears: hears.collect(),
            ready: self.is_ready(at) && !node.looks_behind,
            waits_for: String::new(),
            version: "1".into(),
        }
    }

    fn sighting(&self, at: usize) -> Sighting {
        let (node, id) = (&self.nodes[at], self.roster.validators[at].id);
        let up = matches!(node.phase, Phase::Up(_));
        let answer = if !up {
            None
        } else if node.unreachable {
            Some(Answer::Silent("no answer within 2 s".into()))
        } else if !self.serves(at) {
            Some(Answer::NotServing("connection refused".into()))
        } else {
            Some(Answer::Account(Box::new(self.account(at))))
        };
        Sighting {
            pod: Some(PodFacts {
                running: up,
                ready: node.ready_since.is_some(),
                leaving: node.leaving.is_some(),
                leaving_ms: node.leaving,
                trouble: (!up && node.restarts > 0).then(|| "CrashLoopBackOff".to_string()),
                newest: node.revision + 1 == self.templates.len(),
                made_ms: Some(node.made),
                ready_since_ms: node.ready_since,
                restarts: node.restarts,
            }),
            answer,
            absent_since_ms: self.absent_since.get(&id).copied(),
            was_suspected: self.suspects.contains(&id),
        }
    }

    /// What an operator sees, and whether all of it is of this moment.
    fn look(&mut self) -> (Roll, bool) {
        let mut fresh = true;
        let mut sightings = BTreeMap::new();
        for at in 0..self.nodes.len() {
            let id = self.roster.validators[at].id;
            let mut sighting = self.sighting(at);
            let old = self.before.insert(id, sighting.clone());
            if let Some(old) = old.filter(|_| self.random.random_bool(0.1)) {
                fresh &= old.answer == sighting.answer;
                sighting.answer = old.answer;
            }
            sightings.insert(id, sighting);
        }
        let roll = roll::call(&self.roster, &sightings);
        for member in &roll.members {
            if member.standing.cannot_vote() {
                self.absent_since.entry(member.id).or_insert(self.now);
            } else {
                self.absent_since.remove(&member.id);
            }
            if member.suspected {
                self.suspects.insert(member.id);
            } else {
                self.suspects.remove(&member.id);
            }
        }
        (roll, fresh)
    }

    fn outdated(&self) -> Vec<NodeId> {
        let old = |(_, node): &(&Validator, &Node)| node.revision + 1 < self.templates.len();
        let pairs = self.roster.validators.iter().zip(&self.nodes).filter(old);
        pairs.map(|(validator, _)| validator.id).collect()
    }

    /// What an operator decides from a look, with the UID of the pod.
    fn decide(&self, roll: &Roll, fresh: bool) -> Result<Option<Removal>, Failure> {
        let budget = Budget {
            roll,
            born: true,
            now_ms: self.now,
            known_head: self.known_head,
            accepted: self.accepted,
        };
        let Ok(Some((id, allowance))) = rollout::next(&budget, &self.outdated()) else {
            return Ok(None);
        };
        let at = self.roster.validators.iter().position(|member| member.id == id).unwrap();
        if fresh {
            self.check_decision(&budget, at, allowance)?;
        }
        Ok(Some(Removal { at, uid: self.nodes[at].uid, allowance }))
    }

    /// Compares a decision with the truth that it was made from.
    fn check_decision(
        &self,
        budget: &Budget<'_>,
        at: usize,
        allowance: Allowance,
    ) -> Result<(), Failure> {
        let needed = self.roster.quorum.q;
        let free = allowance == Allowance::Free;
        if free && self.connected(at) && self.nodes[at].leaving.is_none() {
            return Err(format!("prod-{at} votes and was called free"));
        }
        let stay = self.stay(at, |at| self.votes(at));
        if allowance == Allowance::QuorumStays && stay < needed {
            return Err(format!("without prod-{at} only {stay} of {needed} honest voters stay"));
        }
        if self.nodes[at].dissents && self.connected(at) {
            return Err(format!("prod-{at} contradicts the others and was taken away"));
        }
        if self.divided && !free {
            return Err("a divided chain was rolled".to_string());
        }
        if allowance == Allowance::QuorumStays && !self.nodes[at].suspected {
            let outdated = self.outdated();
            let better = (0..self.nodes.len()).find(|other| {
                let id = self.roster.validators[*other].id;
                let (node, member) = (&self.nodes[*other], budget.roll.member(id).unwrap());
                node.suspected
                    && member.suspected
                    && node.leaving.is_none()
                    && outdated.contains(&id)
                    && budget.allows(id).is_ok()
            });
            if let Some(better) = better {
                return Err(format!("prod-{at} went before prod-{better}, which is suspected"));
            }
        }
        Ok(())
    }

    /// An eviction, as the API server decides it: a pod that is not ready always goes, any other
    /// only if as many ready pods stay as the PodDisruptionBudget asks.
    fn evict(&mut self, at: usize) -> bool {
        let ready = |at: usize| self.nodes[at].ready_since.is_some();
        let granted = !ready(at) || self.stay(at, ready) >= self.roster.quorum.q;
        if granted {
            self.end(at);
        }
        granted
    }

    fn end(&mut self, at: usize) {
        let after = self.random.random_range(0..4) * TICK_MS;
        self.nodes[at].leaving.get_or_insert(self.now + after);
    }

    /// Does what was decided, perhaps from an older look.
    fn remove(&mut self, removal: &Removal) -> Result<(), Failure> {
        let Removal { at, uid, allowance } = *removal;
        let node = &self.nodes[at];
        if node.uid != uid || node.leaving.is_some() {
            return Ok(());
        }
        let (voted, ready) = (self.connected(at), node.ready_since.is_some());
        let before = self.stay(usize::MAX, |at| self.connected(at));
        let by_delete = matches!(allowance, Allowance::Pauses | Allowance::Accepted);
        if by_delete || node.ready_since.is_none() {
            self.end(at);
        } else if !self.evict(at) {
            return Ok(());
        }
        if !voted || !ready {
            return Ok(());
        }
        let (after, needed) = (before - 1, self.roster.quorum.q);
        if !by_delete && before >= needed && after < needed {
            return Err(format!("prod-{at} was taken away and {after} of {needed} voters stay"));
        }
        self.check_pace(at)?;
        self.taken.push((at, self.now));
        Ok(())
    }

    /// A voter goes: did the one before it come back for long enough?
    fn check_pace(&self, at: usize) -> Result<(), Failure> {
        if self.two_operators {
            return Ok(());
        }
        let newest = self.templates.len() - 1;
        if let Some((last, time)) = self.taken.last().filter(|(last, _)| *last != at) {
            let node = &self.nodes[*last];
            let ready_for = node.ready_since.map(|since| self.now - since);
            let long = ready_for.is_some_and(|time| time >= LEAST_MS);
            if node.revision == newest && !long && self.now - time < RETURN_LIMIT_MS {
                return Err(format!("prod-{at} went {} ms after prod-{last}", self.now - time));
            }
        }
        if self.templates[newest] != Template::Good && self.clean_start && !self.taken.is_empty() {
            return Err(format!(
                "the bad template {:?} took a second voter",
                self.templates[newest]
            ));
        }
        Ok(())
    }

    fn change_template(&mut self, template: Template) {
        let all_settled = (0..self.nodes.len()).all(|at| {
            let node = &self.nodes[at];
            let since = node.ready_since.map_or(0, |since| self.now - since);
            self.votes(at) && node.restarts == 0 && since >= LEAST_MS && node.leaving.is_none()
        });
        self.clean_start = all_settled && self.outdated().is_empty();
        self.templates.push(template);
        self.taken.clear();
    }

    fn faults(&mut self) {
        let at = self.random.random_range(0..self.nodes.len());
        let many = self.nodes.len() > 4 && self.random.random_bool(0.3);
        let faulty = |node: &Node| {
            node.dead || node.isolated || node.dissents || node.suspected || node.unreachable
        };
        let room = many || !self.nodes.iter().any(faulty);
        let which = self.random.random_range(0..40);
        let node = &mut self.nodes[at];
        match which {
            0 if room => node.dead = true,
            1 | 2 if room => node.isolated = true,
            3 if room => node.unreachable = true,
            4 if room => node.suspected = true,
            // With fewer than four, one node's word is the chain's.
            5 if room && self.roster.quorum.f > 0 => node.dissents = true,
            6 | 7 => node.looks_behind = !node.looks_behind,
            8..=11 => (node.dead, node.isolated, node.unreachable) = (false, false, false),
            12 => (node.dissents, node.suspected) = (false, false),
            13 => {
                self.evict(at);
            }
            14 if self.roster.quorum.f > 0 => self.divided = self.random.random_bool(0.3),
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.divided = false;
        // A dead and a suspected one may stay for good: the others go on as far as they can.
        let stays = self.random.random_range(0..self.nodes.len() * 2);
        for (at, node) in self.nodes.iter_mut().enumerate() {
            (node.isolated, node.unreachable, node.looks_behind) = (false, false, false);
            node.dissents = false;
            if at != stays {
                (node.dead, node.suspected) = (false, false);
            }
        }
    }

    fn turn(&mut self, other: &mut Option<Removal>) -> Result<(), Failure> {
        let (roll, fresh) = self.look();
        let removal = self.decide(&roll, fresh)?;
        if let Some(old) = other.take().filter(|_| self.two_operators) {
            self.remove(&old)?;
        }
        if self.two_operators && self.random.random_bool(0.5) {
            // The other operator acts in the next turn, from what it sees now.
            let (roll, fresh) = self.look();
            *other = self.decide(&roll, fresh)?;
        }
        if let Some(removal) = removal {
            self.remove(&removal)?;
        }
        self.known_head = roll.agreement.head.map_or(self.known_head, |head| head.sequence);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Removal {
    at: usize,
    uid: u64,
    allowance: Allowance,
}

fn live_through(seed: u64) -> Result<(), Failure> {
    let n = [4, 7, 3, 4, 1, 10, 5, 6][usize::try_from(seed % 8).unwrap()];
    let mut world = World::new(seed, n);
    let mut other = None;
    let calm = world.random.random_bool(0.3);
    for tick in 0..TICKS {
        if !calm && tick > 10 {
            world.faults();
        }
        if tick % 40 == 20 || world.random.random_bool(0.01) {
            let template = match world.random.random_range(0..8) {
                0 => Template::Dies,
                1 => Template::DiesOnce,
                2 => Template::Hangs,
                3 => Template::Never,
                _ => Template::Good,
            };
            world.change_template(template);
        }
        world.turn(&mut other)?;
        world.tick();
    }
    world.heal();
    world.change_template(Template::Good);
    for tick in 0..LAST_TICKS {
        world.turn(&mut other)?;
        world.tick();
        if world.outdated().is_empty() {
            return Ok(());
        }
        let trusted = world.nodes.iter().filter(|node| !node.dead && !node.suspected).count();
        let dead = tick > LAST_TICKS / 2 && world.nodes.iter().any(|node| node.dead);
        world.accepted = world.roster.quorum.f > 0 && (trusted <= world.roster.quorum.q || dead);
    }
    let (roll, _) = world.look();
    let budget = Budget {
        roll: &roll,
        born: true,
        now_ms: world.now,
        known_head: world.known_head,
        accepted: world.accepted,
    };
    let denial = rollout::next(&budget, &world.outdated());
    // With a chain that tolerates nobody, one that is away for good stops everything.
    let hopeless =
        world.roster.quorum.f == 0 && world.nodes.iter().any(|node| node.dead || node.suspected);
    if hopeless {
        return Ok(());
    }
    Err(format!("{:?} of {n} are never replaced: {denial:?}", world.outdated()))
}

fn histories(seeds: std::ops::Range<u64>) {
    plant(None);
    let failed = |seed: u64| live_through(seed).err().map(|failure| format!("{seed}: {failure}"));
    let failures: Vec<String> = seeds.filter_map(failed).take(10).collect();
    assert!(failures.is_empty(), "histories that fail:\n{}", failures.join("\n"));
}

#[test]
fn our_own_steps_leave_a_quorum_of_trusted_voters_and_come_to_an_end() {
    histories(0..600);
}

#[test]
#[ignore = "the long form: minutes"]
fn a_hundred_thousand_histories() {
    let count = std::env::var("ROSTER_HISTORIES").ok().and_then(|count| count.parse().ok());
    histories(0..count.unwrap_or(100_000));
}

#[test]
fn each_planted_breakage_is_caught() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        plant(Some(mutant));
        let caught = (0..4_000).find_map(|seed| Some((seed, live_through(seed).err()?)));
        match caught {
            Some((seed, failure)) => println!("{mutant:?}: history {seed}: {failure}"),
            None => missed.push(mutant),
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
