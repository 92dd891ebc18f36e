//! `cargo xtask demo`: three nodes on this machine whose pods talk; the work is done by the binary
//! `demo` of the tests crate, which shares its nodes and pods with the tests.

use anyhow::Result;

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
    setup::ensure()?;
    println!("==> building");
    exec(workspace::cargo().args(["build", "--package", "oxlan", "--bins"]))?;
    exec(workspace::cargo().args(["build", "--package", "oxlan-tests", "--bin", "demo"]))?;
    let program = workspace::target().join("debug/demo");
    let mut words = Vec::new();
    if arguments.keep {
        words.push("--keep");
    }
    if arguments.down {
        words.push("--down");
    }
    exec(&mut as_root(&program.to_string_lossy(), &words)?)
}
