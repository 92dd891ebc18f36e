//! `cargo xtask bench`: measures Oxlan beside the kernel's own ways, in one run.

use anyhow::{Context, Result};

use crate::exec::{as_root, exec};
use crate::{setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Three rounds of one second instead of five of three
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/BENCHMARKS.md, too
    #[arg(long)]
    write: bool,
}

/// What stands above the tables in docs/BENCHMARKS.md.
const HEAD: &str = "# Benchmarks\n\n\
    Written by `cargo xtask bench --write`.\n\
    Nodes and pods are network namespaces on one machine, the underlay is a bridge.\n\
    Compare ratios, not absolute figures: the machine is shared.\n\n";

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure()?;
    println!("==> building with optimization");
    for package in [["oxlan", "--bins"], ["oxlan-tests", "--bins"]] {
        exec(
            workspace::cargo()
                .args(["build", "--release", "--package"])
                .args(package),
        )?;
    }
    let results = workspace::target().join("bench");
    let program = workspace::target().join("release/bench");
    let [program, directory] = [&program, &results].map(|path| path.to_string_lossy());
    let mut words = vec![&*directory];
    if arguments.quick {
        words.push("--quick");
    }
    exec(&mut as_root(&program, &words)?)?;
    println!("results: {directory}/bench.md, {directory}/bench.json");
    if arguments.write {
        let tables = std::fs::read_to_string(results.join("bench.md")).context("no results")?;
        let file = workspace::root().join("docs/BENCHMARKS.md");
        std::fs::write(&file, format!("{HEAD}{tables}"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {}", file.display());
    }
    Ok(())
}
