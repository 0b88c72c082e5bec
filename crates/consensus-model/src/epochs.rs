//! The model of an epoch change: a RECONFIG ends the old epoch, and the new set of validators goes
//! on, while a node may lag behind.
//!
//! The old set votes on sequences, any of which may carry the RECONFIG. The epoch ends at the
//! sequence s where it is decided: a node that executed s votes for nothing above s and signs the
//! forced checkpoint. Enough signatures of the *old* set make the epoch certificate, and with it
//! members of the new set begin at view 0. A node that has not heard of it goes on in the old
//! epoch: it enters views there and votes. So does a removed node.
//!
//! The properties:
//! - In each epoch no two commit certificates of a sequence differ.
//! - The old epoch certifies nothing above s.
//! - The new epoch continues what the old one decided.
//!
//! Liars are at most f of either set. They need not be the same ones: a removed liar may be
//! replaced by another.

use crate::mutation::Mutation;
use crate::reduce::representative;
use crate::report::Narrate;
use crate::steps::{self, Values, is_reconfig};
use crate::votes::{Committee, LEFT, Votes, bits, origin};
use stateright::{Model, Property};

/// Members of the old set, by id.
const OLD: [u8; 4] = [0, 1, 2, 3];

/// The change that the RECONFIG makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The last member is replaced by a new one.
    Replace,
    /// The last member is removed.
    Remove,
    /// A member is added.
    Add,
}

impl Change {
    const fn new_set(self) -> &'static [u8] {
        match self {
            Self::Replace => &[0, 1, 2, 4],
            Self::Remove => &[0, 1, 2],
            Self::Add => &[0, 1, 2, 3, 4],
        }
    }

    /// The largest sets of liars that both epochs tolerate.
    const fn liars(self) -> &'static [&'static [u8]] {
        match self {
            Self::Replace => &[&[0], &[1], &[2], &[3, 4]],
            Self::Remove => &[&[0], &[1], &[2], &[3]],
            Self::Add => &[&[0], &[1], &[2], &[3], &[4]],
        }
    }
}

/// The model of an epoch change.
#[derive(Clone, Debug)]
pub struct EpochModel {
    cases: Vec<Case>,
    mutation: Mutation,
    reduced: bool,
}

/// One choice of the liars and of the first leader.
#[derive(Clone, Debug)]
struct Case {
    old: Committee,
    /// The new committee, by the position of its first leader.
    new: Vec<Committee>,
    /// Its members, by id.
    set: &'static [u8],
    /// For each honest member of the new set, its index among the honest members of the old set, if
    /// it was one.
    came_from: Vec<Option<usize>>,
    /// For each position in the old set, the member's position in the new one.
    position: Vec<Option<usize>>,
}

/// The case, and the votes of honest nodes in each epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    case: u8,
    old: Votes,
    new: Votes,
}

/// A step of one honest node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A step in the old epoch.
    Old(steps::Step),
    /// The node executes the RECONFIG and signs the forced checkpoint. The number is its index
    /// among the honest members of the old set.
    Seal(u8),
    /// A step in the new epoch.
    New(steps::Step),
}

impl EpochModel {
    /// A model with the given (views, sequences) of the old and of the new epoch.
    #[must_use]
    pub fn new(change: Change, old: (u8, u8), new: (u8, u8), mutation: Mutation) -> Self {
        let mut cases = Vec::new();
        for liars in change.liars() {
            for first in [0, 2] {
                cases.push(Case::new(change, liars, first, old, new, mutation));
            }
        }
        Self { cases, mutation, reduced: true }
    }

    /// Turns every reduction off.
    #[must_use]
    pub fn unreduced(mut self) -> Self {
        self.reduced = false;
        self
    }

    fn case(&self, state: &State) -> &Case {
        &self.cases[usize::from(state.case)]
    }

    /// The sequence at which the RECONFIG was decided, and its digest.
    fn decided_end(&self, state: &State) -> Option<(u8, u8)> {
        let old = &self.case(state).old;
        reconfig(old, |sequence| state.old.committed(old, sequence))
    }

    /// The sequence and digest at which nodes believe that the old epoch ended.
    fn end(&self, state: &State) -> Option<(u8, u8)> {
        let old = &self.case(state).old;
        match self.mutation {
            Mutation::OpenWhenPrepared => reconfig(old, |sequence| {
                (0..old.views).fold(0, |all, view| all | state.old.prepared(old, view, sequence))
            }),
            _ => self.decided_end(state),
        }
    }

    /// The new committee, once the epoch certificate exists.
    fn opened(&self, state: &State) -> Option<&Committee> {
        let case = self.case(state);
        let (sequence, digest) = self.end(state)?;
        let signed =
            case.old.nodes().filter(|node| state.old.executed[*node] >= sequence).count() as u32;
        let open = signed >= case.old.need() || self.mutation == Mutation::OpenWhenPrepared;
        // The leader that proposed the last sequence first goes on, if it is still a member.
        let leader = usize::from((case.old.first + origin(digest)) % case.old.members);
        let first = case.position[leader].unwrap_or(0);
        open.then(|| &case.new[first])
    }

    fn agree(&self, state: &State) -> bool {
        state.old.agree(&self.case(state).old)
            && self.opened(state).is_none_or(|new| state.new.agree(new))
    }

    fn nothing_beyond(&self, state: &State) -> bool {
        let old = &self.case(state).old;
        let Some((end, _)) = self.decided_end(state) else { return true };
        (end + 1..=old.sequences)
            .all(|sequence| (0..old.views).all(|view| state.old.prepared(old, view, sequence) == 0))
    }

    /// Whether the old epoch decided nothing at the sequences that the new one decided, and the
    /// sequence below them is the RECONFIG.
    fn continues(&self, state: &State) -> bool {
        let old = &self.case(state).old;
        let (Some((end, _)), Some(new)) = (self.end(state), self.opened(state)) else {
            return true;
        };
        (1..=new.sequences).filter(|sequence| state.new.committed(new, *sequence) != 0).all(
            |sequence| {
                let beyond = end + sequence <= old.sequences
                    && state.old.committed(old, end + sequence) != 0;
                !beyond && bits(state.old.committed(old, end)).all(is_reconfig)
            },
        )
    }

    fn decided_past_a_laggard(&self, state: &State) -> bool {
        let case = self.case(state);
        let lags = case.old.nodes().any(|node| state.old.view[node] != LEFT);
        lags && self
            .opened(state)
            .is_some_and(|new| state.new.committed_in(new, new.views - 1, new.sequences) != 0)
    }

    /// The node executes the RECONFIG: it signs the checkpoint, and the old epoch is over for it.
    fn seal(&self, old: &mut Votes, node: usize, sequence: u8) {
        old.executed[node] = old.executed[node].max(sequence);
        if self.mutation != Mutation::VotePastReconfig {
            old.view[node] = LEFT;
        }
    }
}

/// The first sequence for which a digest with a RECONFIG is among those that `of` names.
fn reconfig(old: &Committee, of: impl Fn(u8) -> u8) -> Option<(u8, u8)> {
    (1..=old.sequences).find_map(|sequence| {
        bits(of(sequence)).find(|digest| is_reconfig(*digest)).map(|digest| (sequence, digest))
    })
}

impl Case {
    fn new(
        change: Change,
        liars: &[u8],
        first: u8,
        old: (u8, u8),
        new: (u8, u8),
        mutation: Mutation,
    ) -> Self {
        let set = change.new_set();
        let positions = |set: &[u8]| -> Vec<u8> {
            (0..)
                .zip(set)
                .filter(|(_, id)| liars.contains(id))
                .map(|(position, _)| position)
                .collect()
        };
        let old = Committee::new(4, &positions(&OLD), first, old.0, old.1);
        let size = set.len() as u8;
        let mut new: Vec<Committee> = (0..size)
            .map(|first| Committee::new(size, &positions(set), first, new.0, new.1))
            .collect();
        if mutation == Mutation::OldVotesCount {
            new.iter_mut().for_each(|committee| committee.hostile = liars.len() as u8);
        }
        let honest = |set: &[u8]| -> Vec<u8> {
            set.iter().filter(|id| !liars.contains(id)).copied().collect()
        };
        let was = honest(&OLD);
        let came_from = honest(set).iter().map(|id| was.iter().position(|old| old == id)).collect();
        let position = OLD.iter().map(|id| set.iter().position(|new| new == id)).collect();
        Self { old, new, set, came_from, position }
    }
}

impl Model for EpochModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        (0..self.cases.len())
            .map(|case| State { case: case as u8, old: Votes::default(), new: Votes::default() })
            .collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let old = &self.case(state).old;
        let end = self.end(state);
        let last = match end {
            Some((sequence, _)) if self.mutation != Mutation::VotePastReconfig => sequence,
            _ => old.sequences,
        };
        let mut found = Vec::new();
        steps::steps(&state.old, old, Values::Reconfig, last, self.mutation, &mut found);
        actions.extend(found.drain(..).map(Step::Old));
        if let Some((sequence, _)) = end {
            let unsealed = old.nodes().filter(|node| state.old.executed[*node] < sequence);
            actions.extend(unsealed.map(|node| Step::Seal(node as u8)));
        }
        if let Some(new) = self.opened(state) {
            steps::steps(&state.new, new, Values::Alike, new.sequences, self.mutation, &mut found);
            actions.extend(found.into_iter().map(Step::New));
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let case = self.case(state);
        let mut next = *state;
        let (sequence, _) = self.end(state).unwrap_or_default();
        match step {
            Step::Old(step) => next.old = steps::apply(&state.old, step),
            Step::Seal(node) => self.seal(&mut next.old, usize::from(node), sequence),
            Step::New(step) => {
                // A node that acts in the new epoch has the epoch certificate and executed what it
                // certifies.
                if let Some(node) = case.came_from[step.node()] {
                    self.seal(&mut next.old, node, sequence);
                }
                next.new = steps::apply(&state.new, step);
            }
        }
        if self.reduced {
            next.old = representative(&next.old, &case.old, Values::Reconfig);
            if let Some(new) = self.opened(&next) {
                next.new = representative(&next.new, new, Values::Alike);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("agreement within each epoch", Self::agree),
            Property::<Self>::always(
                "the old epoch certifies nothing above its end",
                Self::nothing_beyond,
            ),
            Property::<Self>::always(
                "the new epoch continues what the old one decided",
                Self::continues,
            ),
        ];
        if self.mutation == Mutation::None {
            properties.push(Property::sometimes(
                "the new epoch decides while a node lags in the old one",
                Self::decided_past_a_laggard,
            ));
        }
        properties
    }
}

impl Narrate for EpochModel {
    fn narrate(&self, state: &State, step: &Step) -> String {
        let case = self.case(state);
        let name = |committee: &Committee, set: &[u8], node: usize| {
            set[usize::from(committee.honest[node])]
        };
        match *step {
            Step::Old(step) => format!(
                "old epoch: {}",
                step.describe(&state.old, name(&case.old, &OLD, step.node()))
            ),
            Step::Seal(node) => format!(
                "{} executes the RECONFIG and signs the checkpoint",
                name(&case.old, &OLD, usize::from(node))
            ),
            // The honest members do not depend on the first leader, so any case names them.
            Step::New(step) => format!(
                "new epoch: {}",
                step.describe(&state.new, name(&case.new[0], case.set, step.node()))
            ),
        }
    }
}
