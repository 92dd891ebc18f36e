//! Oxlan's build, set-up, demo and test commands: `cargo xtask --help`.

mod bench;
mod build_ebpf;
mod demo;
#[expect(
    unreachable_pub,
    reason = "the agent's build script includes the file, too"
)]
mod ebpf_object;
mod exec;
mod lint;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Oxlan's build, set-up, demo and test commands"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building, tests and the demo need; under a second when nothing is missing
    Setup,
    /// Measure Oxlan beside the kernel's bridge and VXLAN device
    Bench(bench::Arguments),
    /// Build the BPF programs and describe the object
    BuildEbpf,
    /// Check formatting and run clippy over everything, the BPF programs included
    Lint,
    /// Start three nodes with pods on this machine and watch them talk
    Demo(demo::Arguments),
    /// Run the tests of a tier, or of all
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::command(),
        Command::Bench(arguments) => bench::command(&arguments),
        Command::BuildEbpf => build_ebpf::command(),
        Command::Lint => lint::command(),
        Command::Demo(arguments) => demo::command(&arguments),
        Command::Test(arguments) => test::command(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
