//! Where the time goes while packets flow between nodes: by perf, or where that does not work, by the
//! kernel's statistics of programs.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};

use super::loads::Load;
use super::systems::{self, Path, System};
use super::{Effort, Progress};
use crate::run::output;
use crate::scope::Scope;

/// The systems whose difference a missed goal is.
const SYSTEMS: [System; 3] = [System::Host, System::KernelVxlan, System::Oxlan];

/// What is looked into.
const LOADS: [Load; 3] = [Load::PathLength, Load::Stream, Load::PacketRate];

/// Lines of a profile.
const LINES: usize = 25;

/// Runs each load over each system and returns a table for each.
///
/// # Errors
///
/// If a system cannot be set up or a load fails.
pub fn profile(effort: Effort, progress: &mut Progress<'_>) -> Result<String> {
    let scope = Scope::for_test()?;
    let file = scope.dir().join("perf.data");
    let works = perf_works(&file);
    if !works {
        progress("perf does not work here: the kernel's statistics of programs, instead");
    }
    let mut text = String::new();
    systems::each(progress, |path| {
        for load in LOADS {
            if !SYSTEMS.contains(&path.system) {
                continue;
            }
            let rows = if works {
                by_perf(load, path, effort, &file)?
            } else {
                by_statistics(load, path, effort)?
            };
            text.push_str(&format!("\n{load:?}, {}\n{rows}", path.system.title()));
        }
        Ok(())
    })?;
    Ok(text)
}

/// Samples every CPU by a timer: virtual machines have no counters of instructions.
fn record(file: &FilePath) -> Result<Child> {
    let mut command = Command::new("perf");
    command
        .args([
            "record",
            "--quiet",
            "-a",
            "-e",
            "cpu-clock",
            "-F",
            "4999",
            "-o",
        ])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().context("cannot run perf")
}

/// Ends it as a user would, so that it writes what it has.
fn end(mut recorder: Child) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(recorder.id().try_into()?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    recorder.wait()?;
    Ok(())
}

fn perf_works(file: &FilePath) -> bool {
    let recorded = record(file).and_then(|recorder| {
        std::thread::sleep(Duration::from_millis(500));
        end(recorder)?;
        report(file)
    });
    recorded.is_ok_and(|text| !text.is_empty())
}

fn by_perf(load: Load, path: &Path, effort: Effort, file: &FilePath) -> Result<String> {
    let recorder = record(file)?;
    let done = load.run(path, effort);
    end(recorder)?;
    done?;
    report(file)
}

/// The functions with the largest parts, each with its part.
fn report(file: &FilePath) -> Result<String> {
    let mut command = Command::new("perf");
    let sorted = [
        "report",
        "--stdio",
        "-F",
        "overhead,symbol",
        "-t",
        "\t",
        "-i",
    ];
    let text = output(command.args(sorted).arg(file).stdin(Stdio::null()))?;
    let rows = text.lines().filter(|line| line.contains('%'));
    let rows = rows.filter(|line| !line.starts_with('#')).take(LINES);
    Ok(rows.map(|line| format!("{}\n", line.trim_end())).collect())
}

/// Runs of each program and nanoseconds per run, while the load runs.
fn by_statistics(load: Load, path: &Path, effort: Effort) -> Result<String> {
    let _statistics = enable_stats(Stats::RunTime).context("cannot enable statistics")?;
    let before = spent()?;
    load.run(path, effort)?;
    let mut rows = String::new();
    for (id, (name, time, runs)) in spent()? {
        let (then, earlier) = before.get(&id).map_or((Duration::ZERO, 0), |b| (b.1, b.2));
        let (time, runs) = (time - then, runs - earlier);
        if runs > 0 {
            let each = time.as_nanos() as f64 / runs as f64;
            rows.push_str(&format!(
                "{name}, program {id}: {runs} runs, {each:.0} ns each\n"
            ));
        }
    }
    Ok(rows)
}

/// Name, time and runs of every program, by its number.
fn spent() -> Result<BTreeMap<u32, (String, Duration, u64)>> {
    let mut all = BTreeMap::new();
    for info in loaded_programs() {
        // One that has gone meanwhile is none of ours.
        let Ok(info) = info else { continue };
        let info: ProgramInfo = info;
        let name = info.name_as_str().unwrap_or_default().to_owned();
        all.insert(info.id(), (name, info.run_time(), info.run_count()));
    }
    Ok(all)
}
