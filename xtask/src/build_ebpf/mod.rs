//! `cargo xtask build-ebpf`: builds the BPF programs and describes the object, from the object.

mod btf;
mod describe;

use anyhow::{Context, Result, anyhow};

use crate::{ebpf_object, setup, workspace};

/// The command.
pub(crate) fn command() -> Result<()> {
    setup::ensure_build()?;
    println!("==> building the BPF programs");
    let object = ebpf_object::build(&workspace::root(), &workspace::target())
        .map_err(|error| anyhow!(error))?;
    let data =
        std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let description = describe::describe(&data)
        .with_context(|| format!("cannot make sense of {}", object.display()))?;
    println!("object: {} ({} bytes)\n", object.display(), data.len());
    print!("{description}");
    Ok(())
}
