//! `cargo xtask lint`: formatting and clippy for all crates, the BPF programs included, and the syntax of scripts.

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::exec::{exec, find_program, output};
use crate::{ebpf_object, notes, setup, workspace};

/// The other processor that nodes have.
const ARM: &str = "aarch64-unknown-linux-gnu";

/// What Oxlan is made of. Sizes of what programs and agent share are asserted as they are compiled.
const ARM_PACKAGES: [&str; 3] = ["oxlan-common", "oxlan", "oxlan-tests"];

/// Shells, and the scripts that are for them.
const SCRIPTS: [(&str, &[&str]); 2] = [
    ("bash", &[".ci/run", "tests/vagrant/check"]),
    (
        "sh",
        &[
            "tests/vagrant/pod",
            "tests/vagrant/provision",
            "xtask/src/vm/cluster/guest.sh",
            "xtask/src/vm/init.sh",
            "xtask/src/vm/inside.sh",
            "xtask/src/vm/vagrant/box.sh",
            "xtask/src/vm/vagrant/run.sh",
        ],
    ),
];

/// What Vagrant reads.
const VAGRANTFILE: &str = "tests/vagrant/Vagrantfile";

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
    scripts()?;
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

/// Reads every script without running it.
fn scripts() -> Result<()> {
    for (shell, scripts) in SCRIPTS {
        for script in scripts {
            // Of several names a shell reads only the first.
            let mut check = Command::new(shell);
            exec(check.args(["-n", script]).current_dir(workspace::root()))?;
        }
    }
    // Who has Vagrant has ruby; who has not cannot use the file.
    if find_program("ruby").is_some() {
        let mut check = Command::new("ruby");
        output(
            check
                .args(["-c", VAGRANTFILE])
                .current_dir(workspace::root()),
        )?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_can_be_read() {
        scripts().unwrap();
    }
}
