//! `cargo xtask vm cluster`: three machines with different kernels on one link, an agent on each, as
//! on real hosts; pods reach each other, also while agents are killed and after a machine has lost its power.

mod channel;
mod checks;
mod guest;
mod shell;
mod succession;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use super::accelerator::Accelerator;
use super::test::{Ready, fetch};
use super::{Suite, kernel};
use crate::exec::{exec, is_root};
use crate::setup::debs::recreate;
use crate::workspace;
use guest::Guest;
use wire::Wire;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Leave the machines running, for `cargo xtask vm ssh`
    #[arg(long)]
    keep: bool,
    /// Only remove what `--keep` has left running
    #[arg(long, conflicts_with = "keep")]
    down: bool,
}

#[derive(clap::Args)]
pub(super) struct Ssh {
    /// Number of the machine: 1, 2 or 3
    #[arg(value_parser = clap::value_parser!(u8).range(1..=3))]
    number: u8,
}

/// Where the cluster's files are.
fn dir() -> PathBuf {
    workspace::target().join("vm/cluster")
}

/// The command.
pub(super) fn command(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        is_root(),
        "the machines' link is a bridge in a network namespace: run this as root"
    );
    wire::down(&dir())?;
    if arguments.down {
        return Ok(ExitCode::SUCCESS);
    }
    let ready = fetch(Suite::ALL.to_vec())?;
    exec(workspace::cargo().args(["build", "--package", "oxlan", "--bins"]))?;
    recreate(&dir())?;
    std::fs::write(dir().join("cluster.toml"), guest::cluster_file(ready.len()))?;
    let first = ready.first().context("no kernel")?;
    let accelerator = Accelerator::find(&first.kernel, &first.initramfs);
    let mut wire = Wire::new(&dir(), arguments.keep, ready.len())?;
    let mut guests = Vec::new();
    for (number, ready) in (1..).zip(&ready) {
        guests.push(guest(number, ready, accelerator));
    }
    let checked = checks::run(&mut guests, &mut wire, accelerator.slowness());
    if checked.is_err() {
        checks::show_logs(&guests);
    }
    if arguments.keep {
        println!(
            "\nthe machines run on: `cargo xtask vm ssh 1`, and `cargo xtask vm cluster --down` ends them"
        );
        wire.keep()?;
    }
    checked.map(|()| ExitCode::SUCCESS)
}

/// A shell on a machine.
pub(super) fn ssh(arguments: &Ssh) -> Result<ExitCode> {
    shell::open(&guest::console(&dir(), arguments.number))
}

fn guest(number: u8, ready: &Ready, accelerator: Accelerator) -> Guest<'_> {
    let kernel: &kernel::Kernel = &ready.kernel;
    println!(
        "==> node-{number}: {}, Linux {}",
        ready.suite.name(),
        kernel.release
    );
    Guest::new(number, kernel, &ready.initramfs, accelerator)
}
