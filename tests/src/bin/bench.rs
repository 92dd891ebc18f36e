//! Measures Oxlan beside other systems; `cargo xtask bench` builds and starts it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use oxlan_tests::bench::{self, Effort, Group};

/// Where the page with the tables finds the plots.
const PLOTS: &str = "bench";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(nix::unistd::geteuid().is_root(), "this needs root");
    if arguments == ["--profile"] {
        let text = bench::profile(Effort::Full, &mut |text| eprintln!("{text}"))?;
        println!("{text}");
        return Ok(());
    }
    let (effort, groups, directory) = parse(&arguments)?;
    let report = bench::run(effort, &groups, &mut |text| eprintln!("{text}"))?;
    let directory = Path::new(directory);
    write(directory, "bench.json", &format!("{:#}\n", report.json()))?;
    write(directory, "bench.md", &report.markdown(Some(PLOTS)))?;
    report.write_plots(&directory.join(PLOTS))?;
    println!("{}", report.markdown(None));
    Ok(())
}

/// `--profile`, which `main` has seen to, or `[--quick | --smoke] [--only GROUP]... DIRECTORY`
fn parse(arguments: &[String]) -> Result<(Effort, Vec<Group>, &str)> {
    let mut effort = Effort::Full;
    let mut groups = Vec::new();
    let mut directory = None;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => effort = Effort::Quick,
            "--smoke" => effort = Effort::Smoke,
            "--only" => groups.push(group(words.next().context("--only needs a group")?)?),
            other if other.starts_with('-') => {
                bail!(
                    "unknown option {other}: --quick, --smoke, --only GROUP and a directory are allowed"
                )
            }
            other => directory = Some(other),
        }
    }
    if groups.is_empty() {
        groups = Group::ALL.to_vec();
    }
    let directory = directory.context("name the directory for results")?;
    Ok((effort, groups, directory))
}

fn group(key: &str) -> Result<Group> {
    let all: Vec<&str> = Group::ALL.iter().map(|group| group.key()).collect();
    Group::by_key(key)
        .with_context(|| format!("there is no group {key}: one of {}", all.join(", ")))
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let file = directory.join(name);
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}
