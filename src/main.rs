//! The `pangu-draw` command.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match pangu_draw::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
