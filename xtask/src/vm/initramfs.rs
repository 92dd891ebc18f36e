//! The first file system of the machine: it mounts this machine's root and goes there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::{Kernel, busybox};
use crate::exec::exec;
use crate::setup::debs::recreate;

/// The modules that reach the root; those that they depend on come along.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Makes the archive and returns where it is.
pub(super) fn build(dir: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let tree = dir.join("initramfs");
    recreate(&tree)?;
    for directory in ["bin", "proc", "sys", "dev", "host", "memory", "root"] {
        std::fs::create_dir_all(tree.join(directory))?;
    }
    copy(&busybox(), &tree.join("bin/busybox"))?;
    std::fs::write(tree.join("init"), include_str!("init.sh"))?;
    exec(Command::new("chmod").arg("755").arg(tree.join("init")))?;
    let dependencies = std::fs::read_to_string(kernel.modules.join("modules.dep"))?;
    let to = tree.join("lib/modules").join(&kernel.release);
    for module in needed(&dependencies) {
        copy(&kernel.modules.join(module), &to.join(module))?;
    }
    copy(&kernel.modules.join("modules.dep"), &to.join("modules.dep"))?;
    let archive = dir.join("initramfs.cpio");
    let pack = format!(
        "{0} find . | {0} cpio -o -H newc 2>/dev/null",
        busybox().display()
    );
    let mut sh = Command::new("sh");
    sh.args(["-c", &pack]).current_dir(&tree);
    exec(sh.stdout(std::fs::File::create(&archive)?))?;
    Ok(archive)
}

/// Paths of [`MODULES`] and what they depend on; a module that is built in has no line.
fn needed(dependencies: &str) -> Vec<&str> {
    let is_wanted = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        MODULES
            .iter()
            .any(|name| file.strip_prefix(name) == Some(".ko"))
    };
    let mut paths: Vec<&str> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(path, _)| is_wanted(path))
        .flat_map(|(path, others)| std::iter::once(path).chain(others.split_whitespace()))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::copy(from, to))
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_depend_on() {
        let dependencies = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\n\
                            kernel/fs/overlayfs/overlay.ko:\n\
                            kernel/net/9p/9pnet.ko:\n\
                            kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko\n\
                            kernel/drivers/net/veth.ko:\n";
        assert_eq!(
            needed(dependencies),
            [
                "kernel/fs/9p/9p.ko",
                "kernel/fs/netfs/netfs.ko",
                "kernel/fs/overlayfs/overlay.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/net/9p/9pnet_virtio.ko",
            ]
        );
    }
}
