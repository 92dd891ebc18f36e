//! The agent and the command line.

use std::process::ExitCode;

use clap::Parser;
use oxlan::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
