//! `cargo xtask dist`: a tarball for plain hosts. The same inputs make the same bytes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec::output;
use crate::release;
use crate::tree::{Tree, gzip};
use crate::workspace;

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Where to write the tarball [default: target/oxlan-VERSION-ARCH-linux.tar.gz]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take the programs from this directory instead of building them
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
}

/// Files of the repository, and where they are in the tarball.
const FILES: [(&str, &str); 8] = [
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("CONTRIBUTING.md", "CONTRIBUTING.md"),
    (
        "deploy/oxlan-agent.service",
        "lib/systemd/system/oxlan-agent.service",
    ),
    (
        "deploy/10-oxlan.conflist",
        "etc/cni/net.d/10-oxlan.conflist",
    ),
    ("deploy/cluster.toml", "etc/oxlan/cluster.toml"),
];

/// Where distributions look for the scripts.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/oxlan"),
    ("zsh", "share/zsh/site-functions/_oxlan"),
    ("fish", "share/fish/vendor_completions.d/oxlan.fish"),
];

pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    write(arguments).map(drop)
}

/// Makes the tarball where it usually is.
pub(crate) fn make() -> Result<PathBuf> {
    write(&Arguments::default())
}

fn write(arguments: &Arguments) -> Result<PathBuf> {
    let name = format!(
        "oxlan-{}-{}-linux",
        release::VERSION,
        std::env::consts::ARCH
    );
    let to = arguments.output.clone();
    let to = to.unwrap_or_else(|| workspace::target().join(format!("{name}.tar.gz")));
    let tarball = gzip(&tree(arguments, &name)?.tar()?)?;
    std::fs::write(&to, &tarball).with_context(|| format!("cannot write {}", to.display()))?;
    println!("{}: {} kB", to.display(), tarball.len() / 1000);
    Ok(to)
}

fn tree(arguments: &Arguments, name: &str) -> Result<Tree> {
    let programs = release::programs(arguments.from.as_deref())?;
    let oxlan = programs.join("oxlan");
    let mut tree = Tree::default();
    for (from, to) in FILES {
        tree.add_copy(
            &format!("{name}/{to}"),
            0o644,
            &workspace::root().join(from),
        )?;
    }
    for document in documents()? {
        let from = workspace::root().join(&document);
        tree.add_copy(&format!("{name}/{document}"), 0o644, &from)?;
    }
    for (program, to) in [
        ("oxlan", "bin/oxlan"),
        ("oxlan-cni", "libexec/cni/oxlan-cni"),
    ] {
        let contents = release::stripped(&programs.join(program))?;
        tree.add(&format!("{name}/{to}"), 0o755, contents);
    }
    for (shell, to) in COMPLETIONS {
        let script = output(Command::new(&oxlan).args(["completions", shell]))?;
        tree.add(&format!("{name}/{to}"), 0o644, script.into_bytes());
    }
    add_manual(&mut tree, name, &oxlan)?;
    Ok(tree)
}

/// All of `docs/*.md`, for the README and they themselves lead from one to the other; in order.
fn documents() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(workspace::root().join("docs"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    Ok(names)
}

fn add_manual(tree: &mut Tree, name: &str, oxlan: &std::path::Path) -> Result<()> {
    let scratch = workspace::target().join(format!("man.{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let written = output(Command::new(oxlan).arg("man").arg(&scratch));
    let added = written.and_then(|_| {
        for page in std::fs::read_dir(&scratch)? {
            let page = page?;
            let to = format!(
                "{name}/share/man/man1/{}",
                page.file_name().to_string_lossy()
            );
            tree.add_copy(&to, 0o644, &page.path())?;
        }
        Ok(())
    });
    std::fs::remove_dir_all(&scratch)?;
    added
}
