//! The binary `cretoai-node`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match cretoai_node::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cretoai-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
