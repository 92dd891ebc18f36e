//! Builds the BPF object and hands its path to the crate, which embeds it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[expect(
    unreachable_pub,
    reason = "xtask, which owns the file, has it as a public module"
)]
#[path = "../xtask/src/ebpf_object.rs"]
mod ebpf_object;

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let manifest_dir = path_from_env("CARGO_MANIFEST_DIR")?;
    let out_dir = path_from_env("OUT_DIR")?;
    let workspace = manifest_dir
        .parent()
        .ok_or("the agent's directory has no parent")?;
    let target_dir = target_dir(&out_dir).unwrap_or_else(|| workspace.join("target"));
    rerun_on_change(workspace);

    let object = ebpf_object::build(workspace, &target_dir)?;
    let embedded = out_dir.join("oxlan.bpf.o");
    fs::copy(&object, &embedded)
        .map_err(|error| format!("cannot copy {} here: {error}", object.display()))?;
    println!("cargo::rustc-env=OXLAN_BPF_OBJECT={}", embedded.display());
    Ok(())
}

/// A change of any of these is a reason to build the object again.
fn rerun_on_change(workspace: &Path) {
    let inputs = [
        "ebpf",
        "common",
        "Cargo.toml",
        "Cargo.lock",
        "xtask/src/ebpf_object.rs",
    ];
    for input in inputs {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
}

/// The outer cargo's target directory: the ancestor that cargo has marked as a cache. With `--target` the
/// triple has a directory of its own in it, which cargo marks, too.
fn target_dir(out_dir: &Path) -> Option<PathBuf> {
    let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").is_file();
    let inner = out_dir.ancestors().find(marked)?;
    let outer = inner.parent().filter(marked);
    Some(outer.unwrap_or(inner).to_path_buf())
}

fn path_from_env(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo did not set {name}"))
}
