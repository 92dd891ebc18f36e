//! Builds the BPF object; both `cargo xtask build-ebpf` and the agent's build script call this.
//!
//! Stable rustc builds it: `RUSTC_BOOTSTRAP` unlocks `-Z build-std`, because the BPF target comes
//! without a compiled `core`. Uses the standard library alone, so that a build script can include it.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// The agent's object, and that with which the benchmark compares it.
const OBJECTS: [&str; 2] = ["oxlan", "oxlan-bench"];

/// Builds the programs of `workspace` below `target_dir` and returns the path of the agent's object.
///
/// # Errors
///
/// Says what is missing when `cargo xtask setup` was not run, or what the compiler said.
pub fn build(workspace: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let mut cargo = cargo(workspace, target_dir, "build")?;
    let status = cargo
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !status.success() {
        return Err(format!("building the BPF programs failed ({status})"));
    }
    let built = build_dir(target_dir).join(TARGET).join("release");
    let to = target_dir.join("bpf");
    for name in OBJECTS {
        copy_if_changed(&built.join(name), &to.join(name).with_extension("o"))?;
    }
    Ok(to.join(OBJECTS[0]).with_extension("o"))
}

/// A cargo subcommand (`build`, `clippy`) for the crate with the programs.
///
/// # Errors
///
/// Says what is missing when `cargo xtask setup` was not run.
pub fn cargo(workspace: &Path, target_dir: &Path, subcommand: &str) -> Result<Command, String> {
    let tools = target_dir.join("tools");
    let mut cargo = clean_cargo(workspace);
    cargo
        .args([subcommand, "--release", "--package", "oxlan-ebpf"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(build_dir(target_dir))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&tools)?);
    if let Some(library) = unpacked_library(workspace, &tools)? {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    Ok(cargo)
}

/// The programs get a target directory of their own, as the outer cargo holds the lock of the other.
fn build_dir(target_dir: &Path) -> PathBuf {
    target_dir.join("ebpf")
}

/// Cargo without what an outer cargo, or clippy, put into the environment for its own target.
fn clean_cargo(workspace: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace);
    for name in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
    // The agent's release profile strips symbols, among them the programs.
    command
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
}

/// `--btf` makes the linker turn debug info into BTF: map definitions, and names for bpftool.
fn rustflags(tools: &Path) -> Result<String, String> {
    let linker = tools.join("bin/bpf-linker");
    if !linker.exists() {
        return Err(format!(
            "{} is missing: run `cargo xtask setup`",
            linker.display()
        ));
    }
    let linker = format!("-Clinker={}", linker.display());
    // By default the linker leaves `memset` as calls of a loop over bytes, 100 ns per header.
    let inline = "-Clink-arg=--disable-expand-memcpy-in-order";
    Ok(["-Cdebuginfo=2", "-Clink-arg=--btf", inline, &linker].join("\u{1f}"))
}

/// The source of `core` that `cargo xtask setup` unpacked, if the toolchain has none of its own.
fn unpacked_library(workspace: &Path, tools: &Path) -> Result<Option<PathBuf>, String> {
    let rustc = |arguments: &[&str]| {
        let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(program)
            .args(arguments)
            .current_dir(workspace)
            .output();
        let output = output.map_err(|error| format!("cannot run rustc: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if sysroot
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .exists()
    {
        return Ok(None);
    }
    let version = rustc(&["--version"])?;
    let version = version.split(' ').nth(1).unwrap_or_default();
    let library = tools.join(format!("rust-src/usr/src/rustc-{version}/library"));
    if library.exists() {
        Ok(Some(library))
    } else {
        Err(format!(
            "the toolchain {version} has no rust-src: run `cargo xtask setup`"
        ))
    }
}

/// Keeps the modification time of an object that did not change, so that nothing is rebuilt.
fn copy_if_changed(from: &Path, to: &Path) -> Result<(), String> {
    let data = std::fs::read(from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == data) {
        return Ok(());
    }
    let directory = to.parent().ok_or("the object has no directory")?;
    let new = to.with_extension("new");
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&new, data))
        .and_then(|()| std::fs::rename(&new, to))
        .map_err(|error| format!("cannot write {}: {error}", to.display()))
}
