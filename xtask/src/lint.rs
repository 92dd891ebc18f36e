//! `cargo xtask lint`: formatting and clippy for all crates, the BPF programs included.

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::exec::{exec, output};
use crate::{ebpf_object, notes, setup, workspace};

/// The other processor that nodes have.
const ARM: &str = "aarch64-unknown-linux-gnu";

/// What Oxlan is made of. Sizes of what programs and agent share are asserted as they are compiled.
const ARM_PACKAGES: [&str; 3] = ["oxlan-common", "oxlan", "oxlan-tests"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Check, too, that all compiles for 64-bit ARM; where its standard library or a C compiler for it
    /// cannot be had, say so
    #[arg(long)]
    arm: bool,
}

/// The command; a warning is an error.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure_build()?;
    exec(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    let strict = ["--", "--deny", "warnings"];
    let others = ["clippy", "--workspace", "--exclude", "oxlan-ebpf"];
    exec(
        workspace::cargo()
            .args(others)
            .arg("--all-targets")
            .args(strict),
    )?;
    let programs = ebpf_object::cargo(&workspace::root(), &workspace::target(), "clippy");
    exec(programs.map_err(|error| anyhow!(error))?.args(strict))?;
    if arguments.arm && std::env::consts::ARCH != "aarch64" {
        return arm();
    }
    Ok(())
}

fn arm() -> Result<()> {
    let note = format!("lint {ARM}");
    if let Err(error) = can_check_arm() {
        let why = format!("nothing was checked: {error:#}");
        println!("!!! SKIPPED {ARM}: {why}");
        return notes::skipped(&note, &why);
    }
    let mut check = workspace::cargo();
    check.args(["check", "--all-targets", "--target", ARM]);
    for package in ARM_PACKAGES {
        check.args(["--package", package]);
    }
    notes::done(&note);
    exec(&mut check)
}

/// Ensures that there are the standard library and the C compiler that `ring` is built with.
fn can_check_arm() -> Result<()> {
    let mut add = Command::new("rustup");
    output(
        add.args(["target", "add", ARM])
            .current_dir(workspace::root()),
    )?;
    setup::ensure_arm_compiler()
}
