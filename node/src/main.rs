//! The binary `cretoai-node`.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    match cretoai_node::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr is no reason to panic.
            if writeln!(std::io::stderr(), "cretoai-node: {}", described(&error)).is_err() {
                return ExitCode::FAILURE;
            }
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each said once: many of ours repeat their cause within their own
/// sentence.
fn described(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told {
        told if told.is_empty() => cause,
        told if told.contains(&cause) => told,
        told => format!("{told}: {cause}"),
    })
}
