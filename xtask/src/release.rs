//! The two programs as they are given away: optimised, without symbols, and static, so that they run
//! on any distribution and `oxlan-cni` on any host that the image installs it on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec::{exec, output};
use crate::{setup, workspace};

/// The programs.
pub(crate) const PROGRAMS: [&str; 2] = ["oxlan", "oxlan-cni"];

/// The version of all crates.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the programs are: in `from`, or where they are built now.
pub(crate) fn programs(from: Option<&Path>) -> Result<PathBuf> {
    match from {
        Some(directory) => Ok(directory.to_owned()),
        None => build(),
    }
}

fn build() -> Result<PathBuf> {
    setup::ensure_build()?;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // For the target alone: build scripts are no part of what is given away.
    let variable = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.replace('-', "_").to_uppercase()
    );
    let mut flags = "-C target-feature=+crt-static".to_owned();
    // Paths of this machine in messages would make another machine's build another one.
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo_home = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    for (path, name) in [
        (workspace::root().display().to_string(), "/oxlan"),
        (cargo_home, "/cargo"),
    ] {
        flags += &format!(" --remap-path-prefix={path}={name}");
    }
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "oxlan", "--bins"]);
    exec(cargo.args(["--target", &target]).env(variable, flags))?;
    Ok(workspace::target().join(target).join("release"))
}

/// A program without symbols.
pub(crate) fn stripped(program: &Path) -> Result<Vec<u8>> {
    let scratch = workspace::target().join("stripped");
    std::fs::create_dir_all(&scratch)?;
    let name = program.file_name().context("a program without a name")?;
    // Others may do the same at the same time.
    let to = scratch.join(format!("{}.{}", name.to_string_lossy(), std::process::id()));
    let done = output(Command::new("strip").arg("-o").arg(&to).arg(program));
    let contents = done.and_then(|_| std::fs::read(&to).context("cannot read what strip wrote"));
    let _ = std::fs::remove_file(&to);
    contents
}
