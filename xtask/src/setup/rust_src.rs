//! The source of `core`, which is compiled for the BPF target.
//!
//! From rustup; where rustup cannot download, Debian's package of the same version, which has the
//! same `library/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Outcome, debs};
use crate::exec::{exec, find_program, output};
use crate::workspace::{root, tools};

/// The Debian suite that carries many versions of Rust.
const SUITE: &str = "deb http://deb.debian.org/debian trixie-backports main";

pub(super) fn ensure() -> Result<Outcome> {
    let version = rustc_version()?;
    if in_sysroot()? || in_package(&version).exists() {
        return Ok(Outcome::Ready);
    }
    println!("==> adding rust-src {version}");
    let Err(rustup) = from_rustup(&version) else {
        return Ok(Outcome::Installed);
    };
    println!("==> rustup cannot ({rustup:#}); trying Debian's package");
    from_debian(&version).with_context(|| {
        format!("add it with `rustup component add rust-src --toolchain {version}`")
    })?;
    Ok(Outcome::Installed)
}

fn in_sysroot() -> Result<bool> {
    let sysroot = output(rustc().args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists())
}

/// Where Debian's package is unpacked; `ebpf_object` looks there, too.
fn in_package(version: &str) -> PathBuf {
    tools().join(format!(
        "rust-src/usr/src/rustc-{version}/library/core/src/lib.rs"
    ))
}

fn from_rustup(version: &str) -> Result<()> {
    find_program("rustup").context("there is no rustup")?;
    let mut rustup = Command::new("rustup");
    // A backtrace would not tell the user anything that the message does not.
    rustup.env("RUST_BACKTRACE", "0").current_dir(root());
    exec(rustup.args(["component", "add", "rust-src", "--toolchain", version]))
}

fn from_debian(version: &str) -> Result<()> {
    let to = tools().join("rust-src");
    debs::unpack_from(SUITE, "rust-src", version, &to)?;
    anyhow::ensure!(
        in_package(version).exists(),
        "Debian's package has no {}",
        in_package(version).display()
    );
    Ok(())
}

/// The version of the pinned toolchain, as `1.95.0`.
fn rustc_version() -> Result<String> {
    let text = output(rustc().arg("--version"))?;
    let version = text
        .split_whitespace()
        .nth(1)
        .context("rustc --version prints no version")?;
    Ok(version.to_owned())
}

fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(root());
    command
}
