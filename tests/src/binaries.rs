//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The path of `oxlan`, `oxlan-cni` or another binary of the workspace, next to the running test.
///
/// # Errors
///
/// If it was not built; `cargo xtask test` builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    for directory in own.ancestors().skip(1).take(2) {
        let candidate = directory.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} was not built: run `cargo xtask test`, or `cargo build --package oxlan --bins`")
}

/// A program that `cargo xtask setup` unpacked from a Debian package, as `usr/bin/containerd`.
///
/// # Errors
///
/// If it is not there.
pub fn unpacked(path: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let target = own
        .ancestors()
        .find(|directory| directory.join("tools/debs").is_dir())
        .unwrap_or(Path::new("target"));
    let program = target.join("tools/debs").join(path);
    if program.is_file() {
        Ok(program)
    } else {
        bail!("{} is missing: run `cargo xtask setup`", program.display())
    }
}

/// The BPF programs with which the benchmark compares Oxlan.
///
/// # Errors
///
/// If they were not built; the agent's build does that.
pub fn bench_object() -> Result<Vec<u8>> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let found = own
        .ancestors()
        .map(|directory| directory.join("bpf/oxlan-bench.o"))
        .find(|object| object.is_file());
    let object = found.context("oxlan-bench.o was not built: run `cargo build --package oxlan`")?;
    std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))
}
