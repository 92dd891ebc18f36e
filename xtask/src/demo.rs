//! `cargo xtask demo`: three nodes on this machine whose pods talk; the work is done by the binary
//! `demo` of the tests crate, which shares its nodes and pods with the tests.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::exec::{as_root, exec};
use crate::{setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the nodes running and say how to look at them
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Remove what an earlier `--keep` left running
    #[arg(long)]
    down: bool,
}

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let program = workspace::target().join("debug/demo");
    // Whoever wants it gone does not want to wait for a build.
    if !(arguments.down && program.is_file()) {
        build()?;
    }
    let option = match arguments {
        Arguments { keep: true, .. } => Some("--keep"),
        Arguments { down: true, .. } => Some("--down"),
        Arguments { .. } => None,
    };
    let words: Vec<&str> = option.into_iter().collect();
    // It takes our place: Ctrl-C then reaches only what cleans up, and the shell waits for that.
    let error = as_root(&program.to_string_lossy(), &words)?.exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn build() -> Result<()> {
    setup::ensure()?;
    let mut build = workspace::cargo();
    build.args(["build", "--package", "oxlan", "--package", "oxlan-tests"]);
    exec(build.args(["--bin", "oxlan", "--bin", "oxlan-cni", "--bin", "demo"]))
}
