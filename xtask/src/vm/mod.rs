//! `cargo xtask vm`: Oxlan on other kernels, in virtual machines.
//!
//! A machine's root is this machine's, read-only with a layer in memory over it: its programs,
//! this checkout, and the tests as they were built here. Only the kernel is another one, unpacked
//! from a package of Debian below `target/vm`. Where KVM does not work the processor is emulated,
//! so it needs no more than an ordinary user may do, and patience.

mod accelerator;
mod cluster;
mod console;
mod initramfs;
mod kernel;
mod kernels;
mod machine;
mod report;
pub(crate) mod test;
mod vagrant;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Subcommand, ValueEnum};

use crate::lack::Lack;
use crate::{setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run tests on Debian's kernels, and show what passed on which
    Test(test::Arguments),
    /// Write docs/KERNELS.md: what each kernel has, and how much its verifier looks at
    Kernels,
    /// Boot three machines with different kernels, an agent on each, and see who reaches whom
    Cluster(cluster::Arguments),
    /// Open a shell on a machine that `cluster --keep` has left running
    Ssh(cluster::Ssh),
    /// Bring the machines of tests/vagrant up with Vagrant and libvirt, and see who reaches whom
    Vagrant(vagrant::Arguments),
}

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Command::Test(arguments) => test::command(arguments),
        Command::Kernels => kernels::command(),
        Command::Cluster(arguments) => cluster::command(arguments),
        Command::Ssh(arguments) => cluster::ssh(arguments),
        Command::Vagrant(arguments) => vagrant::command(arguments),
    }
}

/// A suite of Debian whose kernel is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Linux 6.1: filters of clsact, as there are no TCX links before 6.6
    Bookworm,
    /// Linux 6.12
    Trixie,
    /// The newest kernel that Debian offers for a release
    TrixieBackports,
}

impl Suite {
    /// The suites whose kernels are tried unless one is named.
    const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::TrixieBackports];

    /// As apt and the command line name it.
    const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::TrixieBackports => "trixie-backports",
        }
    }

    /// Whether its kernel has all that any test asks for, so that a test that is skipped has failed.
    const fn has_every_feature(self) -> bool {
        match self {
            Self::Bookworm => false,
            Self::Trixie | Self::TrixieBackports => true,
        }
    }

    /// Where its files are.
    fn dir(self) -> PathBuf {
        workspace::target().join("vm").join(self.name())
    }
}

/// Ensures that there is what starts machines.
fn prepare() -> Result<()> {
    let architecture = std::env::consts::ARCH;
    if architecture != "x86_64" {
        let error =
            anyhow!("the virtual machines are x86-64 ones, and this machine is {architecture}");
        return Err(error.context(Lack::Architecture));
    }
    setup::ensure_emulator()
}
