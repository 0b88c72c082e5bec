//! The short form: the protocol holds in it, and every rule that is taken away is missed.
//!
//! The counts of distinct states are part of the check. A change of the model that makes it explore
//! less, or more, has to say so here.

use cretoai_consensus_model::runs::{Form, mutations, protocol};

/// Distinct states of the short form.
const DISTINCT: [(&str, &str, usize); 10] = [
    ("view change", "n=4, 3 views x 2 sequences", 627_491),
    ("view change", "n=4, 4 views x 1 sequences", 1_412_073),
    ("view change", "n=3, 3 views x 2 sequences", 5_096),
    ("view change", "n=5, 2 views x 2 sequences", 214_535),
    ("view change", "n=4, 2 views x 2 sequences, no reductions", 369_025),
    ("synchronisation", "n=4, 4 views, newest reports", 93_241),
    ("synchronisation", "n=4, 4 views, reports in any order", 196_056),
    ("epoch change", "4 -> 4 (one replaced), 2x1 then 2x1", 721_252),
    ("epoch change", "4 -> 3, 2x2 then 1x1", 199_252),
    ("epoch change", "4 -> 5, 1x2 then 2x1", 194_254),
];

fn holds(model: &str) {
    let expected: Vec<_> = DISTINCT.iter().filter(|(name, ..)| *name == model).collect();
    let runs: Vec<_> = protocol(Form::Short).into_iter().filter(|run| run.model == model).collect();
    assert_eq!(runs.len(), expected.len());
    for (run, (_, configuration, distinct)) in runs.iter().zip(expected) {
        let outcome = run.run(1);
        assert_eq!(&run.configuration, configuration);
        assert!(
            outcome.holds(),
            "{model}, {configuration}: {outcome}; {:#?}",
            outcome.counterexamples
        );
        assert_eq!(
            outcome.unique, *distinct,
            "{model}, {configuration}: another number of distinct states"
        );
    }
}

fn fails(model: &str, shortest: &[(&str, usize)]) {
    let runs: Vec<_> = mutations().into_iter().filter(|run| run.model == model).collect();
    assert_eq!(runs.len(), shortest.len());
    for (run, (rule, length)) in runs.iter().zip(shortest) {
        let outcome = run.run(1);
        assert_eq!(&run.configuration, rule);
        let found: Vec<_> = outcome.counterexamples.iter().map(|found| found.steps.len()).collect();
        assert_eq!(found, [*length], "{model}, {rule}: {:#?}", outcome.counterexamples);
    }
}

#[test]
fn view_changes_keep_agreement() {
    holds("view change");
}

#[test]
fn views_synchronise() {
    holds("synchronisation");
}

#[test]
fn epochs_continue_each_other() {
    holds("epoch change");
}

#[test]
fn the_rules_of_view_changes_are_needed() {
    fails(
        "view change",
        &[
            ("without the durable view", 11),
            ("without the durable PREPARE", 8),
            ("VIEW-CHANGE without the prepared certificate", 10),
            ("the new leader chooses freely", 10),
            ("the certificate of the lowest view wins", 14),
        ],
    );
}

#[test]
fn the_rules_of_synchronisation_are_needed() {
    fails(
        "synchronisation",
        &[
            ("entering at w instead of q", 1),
            ("one report is a reason", 1),
            ("reports are never a reason", 6),
        ],
    );
}

#[test]
fn the_rules_of_epochs_are_needed() {
    fails(
        "epoch change",
        &[
            ("votes of the old epoch count in the new", 11),
            ("voting past a RECONFIG", 6),
            ("a prepared RECONFIG opens the epoch", 12),
        ],
    );
}
