//! `cargo xtask image`: an image for containers, made without a container engine.
//!
//! It holds the two programs, and Debian's `nft` with its libraries, which the agent runs. There is no
//! shell in it. The archive is Docker's and OCI's form in one, and the same inputs make the same bytes.

mod archive;
mod libraries;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::exec::find_program;
use crate::release;
use crate::tree::{Tree, gzip};
use crate::workspace;

/// What the image may have, bytes: every node of a cluster fetches it.
const MAX_SIZE: usize = 15_000_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What the image is called [default: localhost/oxlan:VERSION]
    #[arg(long, value_name = "NAME:TAG")]
    name: Option<String>,
    /// Where to write the archive [default: target/oxlan-image.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take the programs from this directory instead of building them
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
}

pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let name = arguments.name.clone();
    let name = name.unwrap_or_else(|| format!("localhost/oxlan:{}", release::VERSION));
    let output = arguments.output.clone();
    let output = output.unwrap_or_else(|| workspace::target().join("oxlan-image.tar"));
    let layer = layer(arguments.from.as_deref())?.tar()?;
    let image = archive::image(&layer, &gzip(&layer)?, &name)?;
    // Programs from elsewhere may be built in other ways.
    ensure!(
        arguments.from.is_some() || image.len() <= MAX_SIZE,
        "the image has {:.1} MB, and should have {:.1} MB at most: what has grown?",
        megabytes(image.len()),
        megabytes(MAX_SIZE)
    );
    std::fs::write(&output, &image)
        .with_context(|| format!("cannot write {}", output.display()))?;
    println!(
        "{name} in {}: {:.1} MB, {:.1} MB unpacked",
        output.display(),
        megabytes(image.len()),
        megabytes(layer.len())
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

/// Everything in the image.
fn layer(from: Option<&std::path::Path>) -> Result<Tree> {
    let directory = release::programs(from)?;
    let nft = find_program("nft").context("there is no nft here: run `cargo xtask setup`")?;
    let mut tree = Tree::default();
    let mut programs = vec![nft.clone()];
    tree.add_copy("/usr/sbin/nft", 0o755, &nft)?;
    for name in release::PROGRAMS {
        let program = directory.join(name);
        let to = format!("/usr/local/bin/{name}");
        tree.add(&to, 0o755, release::stripped(&program)?);
        programs.push(program);
    }
    let libraries = libraries::of(&programs)?;
    for library in &libraries {
        tree.add_copy(&library.to_string_lossy(), 0o755, library)?;
    }
    for (package, text) in libraries::licences(libraries.iter().chain([&nft]))? {
        tree.add(&format!("/usr/share/doc/{package}/copyright"), 0o644, text);
    }
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let to = format!("/usr/share/doc/oxlan/{name}");
        tree.add_copy(&to, 0o644, &workspace::root().join(name))?;
    }
    for directory in [
        "/run",
        "/var/lib/oxlan",
        "/etc/oxlan",
        "/proc",
        "/sys",
        "/dev",
    ] {
        tree.add_directory(directory);
    }
    Ok(tree)
}
