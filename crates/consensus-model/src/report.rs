//! The exploration of one model, and its result.

use stateright::{Checker, Expectation, Model, Property};
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A model that can tell its steps in words.
pub trait Narrate: Model {
    /// The step in words.
    fn narrate(&self, state: &Self::State, step: &Self::Action) -> String;

    /// The name of what fails in the state. It may be more exact than the property's.
    fn broken(&self, property: &'static str, _: &Self::State) -> &'static str {
        property
    }
}

/// A property that does not hold, and the steps to a state where it fails.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The property.
    pub property: &'static str,
    /// The steps, in words.
    pub steps: Vec<String>,
}

/// The result of an exploration.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The number of generated states, repetitions included.
    pub total: usize,
    /// The number of distinct states.
    pub unique: usize,
    /// The longest path that was followed.
    pub depth: usize,
    /// The duration.
    pub time: Duration,
    /// The properties that fail.
    pub counterexamples: Vec<Counterexample>,
    /// States that should be possible and were never reached. Then the model explores less than it
    /// says.
    pub unreached: Vec<&'static str>,
}

impl Outcome {
    /// Whether every property holds and every state that should be possible was reached.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.counterexamples.is_empty() && self.unreached.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(unreached) = self.unreached.first() {
            return write!(f, "never seen: {unreached}");
        }
        match self.counterexamples.first() {
            None => write!(f, "holds"),
            Some(found) => write!(f, "fails after {} steps: {}", found.steps.len(), found.property),
        }
    }
}

/// Explores every state, depth first. Only the fingerprints of states are kept.
#[must_use]
pub fn explore<M>(model: M, threads: usize) -> Outcome
where
    M: Narrate + Send + Sync + 'static,
    M::State: Clone + PartialEq + Hash + Send + Sync + 'static,
    M::Action: Clone + PartialEq + Send + Sync + 'static,
{
    let start = Instant::now();
    outcome(&model.checker().threads(threads).spawn_dfs().join(), start)
}

/// Looks for a shortest way to break any property, breadth first.
#[must_use]
pub fn refute<M>(model: M) -> Outcome
where
    M: Narrate + Send + Sync + 'static,
    M::State: Clone + PartialEq + Hash + Send + Sync + 'static,
    M::Action: Clone + PartialEq + Send + Sync + 'static,
{
    let start = Instant::now();
    outcome(&All::of(model).checker().spawn_bfs().join(), start)
}

/// A model whose one property is that all invariants hold. With one property the search ends at the
/// first failure; with several it would go on, and a longer path might replace the shortest.
struct All<M: Model> {
    model: M,
    invariants: Vec<Property<M>>,
}

impl<M: Model> All<M> {
    fn of(model: M) -> Self {
        let invariants = model
            .properties()
            .into_iter()
            .filter(|property| property.expectation == Expectation::Always)
            .collect();
        Self { model, invariants }
    }

    fn broken(&self, state: &M::State) -> Option<&'static str> {
        self.invariants
            .iter()
            .find(|invariant| !(invariant.condition)(&self.model, state))
            .map(|invariant| invariant.name)
    }
}

impl<M: Model> Model for All<M> {
    type State = M::State;
    type Action = M::Action;

    fn init_states(&self) -> Vec<M::State> {
        self.model.init_states()
    }

    fn actions(&self, state: &M::State, actions: &mut Vec<M::Action>) {
        self.model.actions(state, actions);
    }

    fn next_state(&self, state: &M::State, action: M::Action) -> Option<M::State> {
        self.model.next_state(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::<Self>::always("every invariant", |all, state| all.broken(state).is_none())]
    }
}

impl<M: Narrate> Narrate for All<M> {
    fn narrate(&self, state: &M::State, step: &M::Action) -> String {
        self.model.narrate(state, step)
    }

    fn broken(&self, _: &'static str, state: &M::State) -> &'static str {
        Self::broken(self, state).unwrap_or("every invariant")
    }
}

fn outcome<M>(checker: &impl Checker<M>, start: Instant) -> Outcome
where
    M: Narrate,
    M::State: Clone + PartialEq + Hash,
    M::Action: Clone + PartialEq,
{
    let model = checker.model();
    let discoveries = checker.discoveries();
    let mut counterexamples = Vec::new();
    let mut unreached = Vec::new();
    for property in model.properties() {
        match (&property.expectation, discoveries.get(property.name)) {
            (Expectation::Sometimes, None) => unreached.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => {
                let path = path.clone().into_vec();
                let broken = path
                    .last()
                    .map_or(property.name, |(state, _)| model.broken(property.name, state));
                let steps = path
                    .iter()
                    .filter_map(|(state, step)| {
                        step.as_ref().map(|step| model.narrate(state, step))
                    })
                    .collect();
                counterexamples.push(Counterexample { property: broken, steps });
            }
        }
    }
    counterexamples.sort_by_key(|found| found.steps.len());
    Outcome {
        total: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        time: start.elapsed(),
        counterexamples,
        unreached,
    }
}
