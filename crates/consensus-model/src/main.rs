//! Explores the models and prints a table. The exit code is 1 if the protocol fails, or if taking a
//! rule away gives no counterexample.
//!
//! `cretoai-model [--short] [--steps] [--threads N]`: the short form is that of the tests,
//! `--steps` tells every counterexample, and two threads run unless told otherwise.

use cretoai_consensus_model::report::Outcome;
use cretoai_consensus_model::runs::{Form, Run, mutations, protocol};
use std::io::{self, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: cretoai-model [--short] [--steps] [--threads N]";

struct Options {
    form: Form,
    steps: bool,
    threads: usize,
}

fn options() -> Option<Options> {
    let mut options = Options { form: Form::Full, steps: false, threads: 2 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--short" => options.form = Form::Short,
            "--steps" => options.steps = true,
            "--threads" => {
                options.threads = arguments.next()?.parse().ok().filter(|threads| *threads > 0)?
            }
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let Some(options) = options() else {
        writeln!(io::stderr(), "{USAGE}")?;
        return Ok(ExitCode::from(2));
    };
    let mut as_expected = true;
    writeln!(
        out,
        "{:<16} {:<46} {:>12} {:>12} {:>6} {:>8}  result",
        "model", "configuration", "states", "distinct", "depth", "seconds"
    )?;
    writeln!(out, "\nThe protocol as it is")?;
    for run in protocol(options.form) {
        let outcome = row(&mut out, &run, &options)?;
        as_expected &= outcome.holds();
    }
    writeln!(out, "\nA rule taken away: each must fail")?;
    for run in mutations() {
        let outcome = row(&mut out, &run, &options)?;
        as_expected &= !outcome.counterexamples.is_empty();
    }
    writeln!(
        out,
        "\n{}",
        if as_expected { "As expected." } else { "NOT as expected: see above." }
    )?;
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(out: &mut impl Write, run: &Run, options: &Options) -> io::Result<Outcome> {
    write!(out, "{:<16} {:<46} ", run.model, run.configuration)?;
    out.flush()?;
    let outcome = run.run(options.threads);
    let seconds = outcome.time.as_secs_f64();
    writeln!(
        out,
        "{:>12} {:>12} {:>6} {seconds:>8.1}  {outcome}",
        outcome.total, outcome.unique, outcome.depth
    )?;
    if options.steps {
        for (number, step) in
            outcome.counterexamples.first().iter().flat_map(|found| (1..).zip(&found.steps))
        {
            writeln!(out, "    {number:>2}. {step}")?;
        }
    }
    Ok(outcome)
}
