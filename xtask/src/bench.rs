//! `cargo xtask bench`: measures Oxlan beside other systems, in one run.

mod page;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::exec::{as_root, exec};
use crate::{setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One short round of everything, about two minutes after the build
    #[arg(long)]
    quick: bool,
    /// Measure only this; may be given several times
    #[arg(long, value_enum, value_name = "GROUP")]
    only: Vec<Group>,
    /// Write every value to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put tables and plots into docs/BENCHMARKS.md and docs/bench
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Measure nothing, but print where the time goes between nodes, by perf where that works
    #[arg(long, conflicts_with_all = ["quick", "only", "json", "write"])]
    profile: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Group {
    /// Packets between pods, beside hosts, the kernel's bridge and VXLAN, and a tunnel by metadata
    Paths,
    /// Each BPF program alone, with few and with many pods and nodes
    Programs,
    /// The plugin beside the reference plugins, and the agent
    Control,
}

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    setup::ensure()?;
    println!("==> building with optimization");
    for package in [["oxlan", "--bins"], ["oxlan-tests", "--bin=bench"]] {
        exec(
            workspace::cargo()
                .args(["build", "--release", "--package"])
                .args(package),
        )?;
    }
    if arguments.profile {
        return profile();
    }
    let results = workspace::target().join("bench");
    measure(arguments, &results)?;
    println!("results: {}", results.display());
    if let Some(file) = &arguments.json {
        copy(&results.join("bench.json"), file)?;
    }
    if arguments.write {
        write(&results)?;
    }
    Ok(())
}

fn profile() -> Result<()> {
    if let Err(error) = setup::ensure_profiler() {
        eprintln!("without perf: {error:#}");
    }
    exec(&mut as_root(&program(), &["--profile"])?)
}

/// The program that measures.
fn program() -> String {
    let program = workspace::target().join("release/bench");
    program.to_string_lossy().into_owned()
}

fn measure(arguments: &Arguments, results: &Path) -> Result<()> {
    let directory = results.to_string_lossy();
    let only: Vec<String> = arguments.only.iter().map(|group| group.key()).collect();
    let mut words = vec![&*directory];
    words.extend(arguments.quick.then_some("--quick"));
    words.extend(only.iter().flat_map(|group| ["--only", group]));
    exec(&mut as_root(&program(), &words)?)
}

impl Group {
    fn key(self) -> String {
        // Every variant has a value: none is skipped.
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Puts the results into the documentation.
fn write(results: &Path) -> Result<()> {
    let docs = workspace::root().join("docs");
    let file = docs.join("BENCHMARKS.md");
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let page = page::with(&read(&file)?, &read(&results.join("bench.md"))?)?;
    let plots = docs.join("bench");
    let _ = fs::remove_dir_all(&plots);
    fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    let made = fs::read_dir(results.join("bench")).context("there are no plots")?;
    for plot in made {
        let plot = plot?.path();
        let name = plot.file_name().context("a plot without a name")?;
        copy(&plot, &plots.join(name))?;
    }
    fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    println!("wrote {} and {}", file.display(), plots.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::copy(from, to);
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    ensure!(to.is_file(), "{} is not a file", to.display());
    Ok(())
}
