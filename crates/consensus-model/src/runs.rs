//! The list of explorations. The short form is part of the tests; the full form takes minutes.

use crate::epochs::{Change, EpochModel};
use crate::mutation::Mutation;
use crate::report::{Outcome, explore, refute};
use crate::sync::{Reports, SyncModel};
use crate::view_change::ViewChangeModel;

/// One exploration.
pub struct Run {
    /// The name of the model.
    pub model: &'static str,
    /// The configuration in words.
    pub configuration: String,
    run: Box<dyn Fn(usize) -> Outcome>,
}

impl Run {
    fn new(
        model: &'static str,
        configuration: impl Into<String>,
        run: impl Fn(usize) -> Outcome + 'static,
    ) -> Self {
        Self { model, configuration: configuration.into(), run: Box::new(run) }
    }

    /// Explores with this number of threads.
    #[must_use]
    pub fn run(&self, threads: usize) -> Outcome {
        (self.run)(threads)
    }
}

/// The size of the exploration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// An exploration that takes seconds.
    Short,
    /// An exploration that takes minutes.
    Full,
}

/// The runs of the protocol as it is, each of which must hold.
#[must_use]
pub fn protocol(form: Form) -> Vec<Run> {
    [view_changes(form), synchronisation(form), epoch_changes(form)].into_iter().flatten().collect()
}

fn view_changes(form: Form) -> Vec<Run> {
    // Validators, views, sequences.
    let mut sizes = vec![(4, 3, 2), (4, 4, 1), (3, 3, 2), (5, 2, 2)];
    if form == Form::Full {
        sizes.extend([(4, 4, 2), (4, 3, 3), (5, 3, 1), (6, 2, 1), (7, 2, 1)]);
    }
    let mut runs: Vec<Run> = sizes
        .into_iter()
        .map(|(members, views, sequences)| {
            let name = format!("n={members}, {views} views x {sequences} sequences");
            Run::new("view change", name, move |threads| {
                explore(ViewChangeModel::new(members, views, sequences, Mutation::None), threads)
            })
        })
        .collect();
    let (views, sequences) = if form == Form::Full { (3, 2) } else { (2, 2) };
    let name = format!("n=4, {views} views x {sequences} sequences, no reductions");
    runs.push(Run::new("view change", name, move |threads| {
        explore(
            ViewChangeModel::new(4, views, sequences, Mutation::None).strict().unreduced(),
            threads,
        )
    }));
    runs
}

fn synchronisation(form: Form) -> Vec<Run> {
    let last = if form == Form::Full { 4 } else { 3 };
    [(Reports::Newest, "newest reports"), (Reports::Any, "reports in any order")]
        .map(|(reports, name)| {
            Run::new(
                "synchronisation",
                format!("n=4, {} views, {name}", last + 1),
                move |threads| explore(SyncModel::new(last, reports, Mutation::None), threads),
            )
        })
        .into()
}

fn epoch_changes(form: Form) -> Vec<Run> {
    let sizes = match form {
        Form::Short => [
            (Change::Replace, (2, 1), (2, 1)),
            (Change::Remove, (2, 2), (1, 1)),
            (Change::Add, (1, 2), (2, 1)),
        ],
        Form::Full => [
            (Change::Replace, (2, 2), (2, 1)),
            (Change::Remove, (2, 2), (2, 2)),
            (Change::Add, (2, 2), (2, 1)),
        ],
    };
    sizes
        .map(|(change, old, new)| {
            Run::new("epoch change", epoch_name(change, old, new), move |threads| {
                explore(EpochModel::new(change, old, new, Mutation::None), threads)
            })
        })
        .into()
}

fn epoch_name(change: Change, old: (u8, u8), new: (u8, u8)) -> String {
    let change = match change {
        Change::Replace => "4 -> 4 (one replaced)",
        Change::Remove => "4 -> 3",
        Change::Add => "4 -> 5",
    };
    format!("{change}, {}x{} then {}x{}", old.0, old.1, new.0, new.1)
}

/// The runs with a rule taken away, each of which must fail.
#[must_use]
pub fn mutations() -> Vec<Run> {
    let views = [
        (Mutation::ForgetView, 2, "without the durable view"),
        (Mutation::ForgetPrepare, 2, "without the durable PREPARE"),
        (Mutation::OmitLock, 2, "VIEW-CHANGE without the prepared certificate"),
        (Mutation::LeaderChooses, 2, "the new leader chooses freely"),
        (Mutation::LowestView, 3, "the certificate of the lowest view wins"),
    ];
    let wants = [
        (Mutation::EnterAtWeakQuorum, "entering at w instead of q"),
        (Mutation::FollowOne, "one report is a reason"),
        (Mutation::NeverFollow, "reports are never a reason"),
    ];
    // Views and sequences of the old epoch, and of the new one.
    let epochs = [
        (Mutation::OldVotesCount, (2, 1), (2, 1), "votes of the old epoch count in the new"),
        (Mutation::VotePastReconfig, (2, 2), (2, 1), "voting past a RECONFIG"),
        (Mutation::OpenWhenPrepared, (2, 1), (1, 1), "a prepared RECONFIG opens the epoch"),
    ];
    let views = views.map(|(mutation, views, name)| {
        Run::new("view change", name, move |_| refute(ViewChangeModel::new(4, views, 1, mutation)))
    });
    let wants = wants.map(|(mutation, name)| {
        Run::new("synchronisation", name, move |_| {
            refute(SyncModel::new(3, Reports::Newest, mutation))
        })
    });
    let epochs = epochs.map(|(mutation, old, new, name)| {
        Run::new("epoch change", name, move |_| {
            refute(EpochModel::new(Change::Replace, old, new, mutation))
        })
    });
    views.into_iter().chain(wants).chain(epochs).collect()
}
