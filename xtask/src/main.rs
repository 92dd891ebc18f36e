//! Oxlan's build, set-up, demo and test commands: `cargo xtask --help`.

mod bench;
mod build_ebpf;
mod demo;
mod dist;
#[expect(
    unreachable_pub,
    reason = "the agent's build script includes the file, too"
)]
mod ebpf_object;
mod exec;
mod image;
mod lack;
mod lint;
mod notes;
mod release;
mod setup;
mod test;
mod tree;
mod vm;
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
    /// Measure Oxlan beside the limit and other ways to connect pods
    Bench(bench::Arguments),
    /// Build the BPF programs and describe the object
    BuildEbpf,
    /// Check formatting and run clippy over everything, the BPF programs included
    Lint(lint::Arguments),
    /// Start three nodes with pods on this machine and watch them talk
    Demo(demo::Arguments),
    /// Make an image for containers, without a container engine
    Image(image::Arguments),
    /// Make a tarball for plain hosts: programs, systemd unit, manual pages, completions
    Dist(dist::Arguments),
    /// Run the tests of a tier, or of all
    Test(test::Arguments),
    /// Try Oxlan on other kernels, in virtual machines
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Arguments::parse().command {
        Command::Setup => setup::command().map(done),
        Command::Bench(arguments) => bench::command(&arguments).map(done),
        Command::BuildEbpf => build_ebpf::command().map(done),
        Command::Lint(arguments) => lint::command(&arguments).map(done),
        Command::Demo(arguments) => demo::command(&arguments).map(done),
        Command::Image(arguments) => image::command(&arguments).map(done),
        Command::Dist(arguments) => dist::command(&arguments).map(done),
        Command::Test(arguments) => test::command(&arguments),
        Command::Vm(arguments) => vm::command(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
