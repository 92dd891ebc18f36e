//! `cargo xtask vm vagrant`: the machines of tests/vagrant, brought up by Vagrant and libvirt in namespaces
//! of their own, so that nothing of this machine's is touched and nothing is left.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use super::accelerator::Accelerator;
use super::{Suite, test};
use crate::exec::{exec, is_root};
use crate::{dist, setup, workspace};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Take Oxlan from this tarball of `cargo xtask dist` instead of making one
    #[arg(long, value_name = "FILE")]
    tarball: Option<PathBuf>,
    /// Make the box again
    #[arg(long)]
    new_box: bool,
}

/// The command.
pub(super) fn command(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        is_root(),
        "libvirt and its networks are in namespaces of their own: run this as root"
    );
    let kernels = test::fetch(vec![Suite::Bookworm])?;
    setup::ensure_vagrant()?;
    let dir = workspace::target().join("vm/vagrant");
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let tarball = match &arguments.tarball {
        Some(tarball) => tarball.clone(),
        None => dist::make()?,
    };
    let tarball = tarball
        .canonicalize()
        .with_context(|| format!("there is no {}", tarball.display()))?;
    if arguments.new_box || !dir.join("oxlan.box").exists() {
        println!("==> making a box of Debian's packages (once)");
        exec(script(&dir, "box.sh", include_str!("box.sh"))?.arg(&dir))?;
    }
    let first = kernels.first().context("no kernel")?;
    let driver = match Accelerator::find(&first.kernel, &first.initramfs) {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "qemu",
    };
    let run = script(&dir, "run.sh", include_str!("run.sh"))?;
    let mut inside = Command::new("unshare");
    inside.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    inside.arg(run.get_program()).args(run.get_args());
    inside.arg(&dir).arg(workspace::root()).arg(&tarball);
    exec(inside.env("OXLAN_DRIVER", driver))?;
    Ok(ExitCode::SUCCESS)
}

/// A script in a file, to be run by the shell.
fn script(dir: &Path, name: &str, text: &str) -> Result<Command> {
    let path = dir.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new("sh");
    command.arg(path);
    Ok(command)
}
