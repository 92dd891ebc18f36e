//! `bpf-linker`, built once into the target directory.

use anyhow::Result;

use super::Outcome;
use crate::exec::{exec, output};
use crate::workspace::{cargo, tools};

/// Newer ones need an LLVM of the system; this one uses the LLVM 22 inside rustc 1.95.
const VERSION: &str = "0.10.4";

pub(super) fn ensure() -> Result<Outcome> {
    if is_built() {
        return Ok(Outcome::Ready);
    }
    println!("==> building bpf-linker {VERSION} (about a minute, once)");
    let build = tools().join("build");
    exec(
        cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
                "--force",
                "--root",
            ])
            .arg(tools())
            .arg("--target-dir")
            .arg(&build),
    )?;
    // 400 MB that nobody needs any more; a failure to remove them is no reason to stop.
    let _ = std::fs::remove_dir_all(build);
    Ok(Outcome::Installed)
}

fn is_built() -> bool {
    let program = tools().join("bin/bpf-linker");
    program.exists()
        && output(std::process::Command::new(program).arg("--version"))
            .is_ok_and(|text| text.trim().ends_with(VERSION))
}
