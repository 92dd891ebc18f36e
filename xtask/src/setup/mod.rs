//! `cargo xtask setup`: makes everything else work on a fresh machine.
//!
//! Each step looks first and acts only on what is missing, so a second run costs milliseconds.
//! A step that cannot do its work reports what is missing and the others go on.

mod bpffs;
pub(crate) mod debs;
mod linker;
mod packages;
mod rust_src;

use std::fs::File;

use anyhow::{Context, Result, bail};

use crate::lack::Lack;
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
const BUILD_STEPS: [(&str, Step); 3] = [
    ("rust-src", rust_src::ensure),
    ("bpf-linker", linker::ensure),
    ("compilers", packages::ensure_compilers),
];

/// What running nodes on this machine needs.
const RUN_STEPS: [(&str, Step); 3] = [
    ("Debian packages", packages::ensure),
    ("unpacked packages", debs::ensure),
    ("bpffs", bpffs::ensure),
];

/// The command: does what is missing and says what state things are in.
pub(crate) fn command() -> Result<()> {
    let state = ensure_all()?;
    if !state.missing.is_empty() {
        bail!("set-up is not complete: tests and the demo need what is missing");
    }
    if state.installed {
        println!("set-up is complete");
    } else {
        println!("nothing was missing");
    }
    Ok(())
}

/// Ensures what building needs, and what running nodes needs as far as possible; says nothing when
/// nothing is missing.
pub(crate) fn ensure() -> Result<()> {
    ensure_all().map(drop)
}

/// What the steps did.
#[derive(Default)]
struct State {
    installed: bool,
    missing: Vec<String>,
}

fn ensure_all() -> Result<State> {
    let _lock = lock()?;
    let built = run(&BUILD_STEPS);
    let ran = run(&RUN_STEPS);
    must_build(&built)?;
    Ok(State {
        installed: built.installed || ran.installed,
        missing: ran.missing,
    })
}

fn must_build(state: &State) -> Result<()> {
    if !state.missing.is_empty() {
        bail!("Oxlan cannot be built, see above");
    }
    Ok(())
}

/// Ensures that there is what runs virtual machines, besides what [`ensure`] does.
pub(crate) fn ensure_emulator() -> Result<()> {
    let _lock = lock()?;
    let ensured = packages::ensure_emulator();
    ensured.map(drop).context(Lack::Emulator)
}

/// Ensures that there is what makes and runs Vagrant's machines, besides what [`ensure_emulator`] does.
pub(crate) fn ensure_vagrant() -> Result<()> {
    let _lock = lock()?;
    packages::ensure_vagrant().map(drop)
}

/// Ensures that there is what compiles C for 64-bit ARM.
pub(crate) fn ensure_arm_compiler() -> Result<()> {
    let _lock = lock()?;
    packages::ensure_arm_compiler().map(drop)
}

/// Ensures that there is perf.
pub(crate) fn ensure_profiler() -> Result<()> {
    let _lock = lock()?;
    packages::ensure_profiler().map(drop)
}

/// Ensures only that everything can be built.
pub(crate) fn ensure_build() -> Result<()> {
    let _lock = lock()?;
    must_build(&run(&BUILD_STEPS))
}

/// Takes every step and reports those that cannot be taken.
fn run(steps: &[(&'static str, Step)]) -> State {
    let mut state = State::default();
    for (name, step) in steps {
        match step() {
            Ok(Outcome::Ready) => {}
            Ok(Outcome::Installed) => state.installed = true,
            Err(error) => {
                eprintln!("missing: {name}: {error:#}");
                state.missing.push((*name).to_owned());
            }
        }
    }
    state
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
