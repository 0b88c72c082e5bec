//! The model of votes, view changes and crashes: no two commit certificates of one sequence differ.
//!
//! Every position of the attacker is explored, and so every role: leader of any view, or of none. A
//! crash needs no step. All that a node keeps here is durable before it is sent, and a node may get
//! again what it loses: the NEW-VIEW that it accepted and the messages that reached it.

use crate::mutation::Mutation;
use crate::reduce::representative;
use crate::report::Narrate;
use crate::steps::{Step, Values, apply, steps};
use crate::votes::{Committee, Votes};
use stateright::{Model, Property};

/// The model, with one committee for each choice of hostile members.
#[derive(Clone, Debug)]
pub struct ViewChangeModel {
    committees: Vec<Committee>,
    mutation: Mutation,
    reduced: bool,
}

/// The hostile members, and the votes of the honest ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The choice of hostile members.
    pub case: u8,
    /// The votes of honest nodes.
    pub votes: Votes,
}

impl ViewChangeModel {
    /// A model of `members` validators over these views and sequences. As many members lie as may
    /// be assumed, and one of three, too. Every choice of liars is explored.
    #[must_use]
    pub fn new(members: u8, views: u8, sequences: u8, mutation: Mutation) -> Self {
        let faulty = ((members - 1) / 3).max(1);
        let choices = (0..1u16 << members).filter(|set| set.count_ones() == u32::from(faulty));
        let positions = choices
            .map(|set| (0..members).filter(|member| set & (1 << member) != 0).collect::<Vec<_>>());
        let committees = positions
            .map(|hostile| Committee::new(members, &hostile, 0, views, sequences))
            .collect();
        Self { committees, mutation, reduced: !mutation.forgets() }
    }

    /// Turns every reduction off.
    #[must_use]
    pub fn unreduced(mut self) -> Self {
        self.reduced = false;
        self
    }

    /// Lets VIEW-CHANGEs carry certificates of lower views only.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.committees.iter_mut().for_each(|committee| committee.any_certificate = false);
        self
    }

    /// The committee of the state's case.
    #[must_use]
    pub fn committee(&self, state: &State) -> &Committee {
        &self.committees[usize::from(state.case)]
    }

    fn decided_in_last_view(&self, state: &State) -> bool {
        let committee = self.committee(state);
        state.votes.committed_in(committee, committee.views - 1, committee.sequences) != 0
    }
}

impl Model for ViewChangeModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        (0..self.committees.len())
            .map(|case| State { case: case as u8, votes: Votes::default() })
            .collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let committee = self.committee(state);
        steps(&state.votes, committee, Values::Alike, committee.sequences, self.mutation, actions);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut votes = apply(&state.votes, step);
        if self.reduced {
            votes = representative(&votes, self.committee(state), Values::Alike);
        }
        Some(State { case: state.case, votes })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::<Self>::always("agreement", |model, state| {
            state.votes.agree(model.committee(state))
        })];
        if self.mutation == Mutation::None {
            properties.push(Property::sometimes(
                "the last sequence is decided in the last view",
                Self::decided_in_last_view,
            ));
        }
        properties
    }
}

impl Narrate for ViewChangeModel {
    fn narrate(&self, state: &State, step: &Step) -> String {
        step.describe(&state.votes, self.committee(state).honest[step.node()])
    }
}
