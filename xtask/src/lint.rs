//! `cargo xtask lint`: formatting and clippy for all crates, the BPF programs included.

use anyhow::{Result, anyhow};

use crate::exec::exec;
use crate::{ebpf_object, setup, workspace};

/// The command; a warning is an error.
pub(crate) fn command() -> Result<()> {
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
    exec(programs.map_err(|error| anyhow!(error))?.args(strict))
}
