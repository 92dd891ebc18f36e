//! `cargo xtask setup`: makes everything else work on a fresh machine.
//!
//! Each step looks first and acts only on what is missing, so a second run costs milliseconds.
//! A step that cannot do its work reports what is missing and the others go on.

mod bpffs;
mod debs;
mod linker;
mod packages;
mod rust_src;

use std::fs::File;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// What a step found.
enum Outcome {
    /// Nothing was missing.
    Ready,
    /// Something was missing and is there now.
    Installed,
}

type Step = fn() -> Result<Outcome>;

/// What compiling needs; without one of these nothing can go on.
const BUILD_STEPS: [(&str, Step); 2] = [
    ("rust-src", rust_src::ensure),
    ("bpf-linker", linker::ensure),
];

/// What running nodes on this machine needs.
const RUN_STEPS: [(&str, Step); 3] = [
    ("Debian packages", packages::ensure),
    ("unpacked packages", debs::ensure),
    ("bpffs", bpffs::ensure),
];

/// The command: does what is missing and says what state things are in.
pub(crate) fn command() -> Result<()> {
    if ensure()? {
        println!("setup is complete");
    } else {
        println!("nothing was missing");
    }
    Ok(())
}

/// Ensures that programs can be built and nodes can run; says nothing when nothing is missing.
///
/// Returns whether anything had to be installed.
pub(crate) fn ensure() -> Result<bool> {
    let _lock = lock()?;
    let (built, build_missing) = run(&BUILD_STEPS);
    let (ran, run_missing) = run(&RUN_STEPS);
    report(&build_missing);
    report(&run_missing);
    if !build_missing.is_empty() {
        bail!("the BPF programs cannot be built, see above");
    }
    Ok(built || ran)
}

/// Ensures only that the BPF programs can be built.
pub(crate) fn ensure_build() -> Result<()> {
    let _lock = lock()?;
    let (_, missing) = run(&BUILD_STEPS);
    report(&missing);
    if !missing.is_empty() {
        bail!("the BPF programs cannot be built, see above");
    }
    Ok(())
}

fn run(steps: &[(&'static str, Step)]) -> (bool, Vec<String>) {
    let mut installed = false;
    let mut missing = Vec::new();
    for (name, step) in steps {
        match step() {
            Ok(Outcome::Ready) => {}
            Ok(Outcome::Installed) => installed = true,
            Err(error) => missing.push(format!("{name}: {error:#}")),
        }
    }
    (installed, missing)
}

fn report(missing: &[String]) {
    for text in missing {
        eprintln!("missing: {text}");
    }
}

/// Two set-ups of one checkout at once would build the same tool twice.
fn lock() -> Result<File> {
    let tools = workspace::tools();
    std::fs::create_dir_all(&tools)
        .with_context(|| format!("cannot create {}", tools.display()))?;
    let path = tools.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("==> waiting for another set-up of this checkout");
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}
