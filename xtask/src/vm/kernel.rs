//! Kernels of Debian: fetched with apt, unpacked below the target directory, never installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Suite;
use crate::exec::{exec, output};
use crate::lack::Lack;
use crate::setup::debs::{PrivateApt, recreate, unpack_all};
use crate::workspace;

/// The package that names the newest kernel of a suite.
const NEWEST: &str = "linux-image-amd64";

/// An unpacked kernel.
pub(super) struct Kernel {
    /// As `uname -r` will say.
    pub(super) release: String,
    /// The bootable image.
    pub(super) image: PathBuf,
    /// The directory `lib/modules/RELEASE` of its package.
    pub(super) modules: PathBuf,
}

/// What is kept of a kernel's modules: networking, and what the machine's root is made of.
const KEPT: [&str; 9] = [
    "arch",
    "crypto",
    "drivers/net/vxlan",
    "drivers/virtio",
    "fs/9p",
    "fs/fscache",
    "fs/netfs",
    "fs/overlayfs",
    "net",
];

/// The newest kernel of a suite; fetched once, until its directory is removed.
pub(super) fn unpack(suite: Suite) -> Result<Kernel> {
    let dir = suite.dir();
    let root = dir.join("kernel");
    let complete = dir.join("complete");
    if !complete.exists() {
        println!("==> fetching the kernel of {} (once)", suite.name());
        fetch(suite, &root)?;
    }
    let kernel = find(&root)?;
    if !complete.exists() {
        shrink(&kernel.modules.join("kernel"))?;
        index(&kernel)?;
        std::fs::write(&complete, &kernel.release)?;
    }
    Ok(kernel)
}

fn fetch(suite: Suite, root: &Path) -> Result<()> {
    let dir = suite.dir();
    let source = format!("deb http://deb.debian.org/debian {} main", suite.name());
    let apt = PrivateApt::new(&dir.join("apt"), &source)?;
    // Else a list that cannot be had is no error, and what it would name is missing later.
    let strict = ["-o", "APT::Update::Error-Mode=any"];
    let update = exec(apt.command("apt-get").arg("update").args(strict));
    update.context(Lack::Download)?;
    let image = dependencies(&apt, NEWEST, "linux-image-")?;
    let [image] = image.as_slice() else {
        bail!("{NEWEST} of {} does not name one kernel", suite.name());
    };
    let release = image.trim_start_matches("linux-image-");
    // Since Linux 7 image and modules have packages of their own.
    let parts = dependencies(&apt, image, "linux-")?;
    let parts = parts.iter().filter(|part| part.ends_with(release));
    let archives = dir.join("archives");
    recreate(&archives)?;
    let mut download = apt.command("apt-get");
    download.arg("download").arg(image).args(parts);
    exec(download.current_dir(&archives)).context(Lack::Download)?;
    recreate(root)?;
    unpack_all(&archives, root)?;
    std::fs::remove_dir_all(&archives)?;
    Ok(())
}

/// Names of the packages that a package depends on and that start with a prefix.
fn dependencies(apt: &PrivateApt, package: &str, prefix: &str) -> Result<Vec<String>> {
    let text = output(apt.command("apt-cache").args(["depends", package]))?;
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with(prefix));
    Ok(names.map(str::to_owned).collect())
}

fn find(root: &Path) -> Result<Kernel> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|path| entry(&root.join(path)))
        .context("the kernel's package has no modules")?;
    let release = modules.file_name().unwrap_or_default();
    let release = release.to_string_lossy().into_owned();
    let image = [
        modules.join("vmlinuz"),
        root.join(format!("boot/vmlinuz-{release}")),
    ];
    let image = image.into_iter().find(|path| path.is_file());
    Ok(Kernel {
        image: image.context("the kernel's package has no image")?,
        modules,
        release,
    })
}

/// The one entry of a directory.
fn entry(directory: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(directory).ok()?;
    Some(entries.next()?.ok()?.path())
}

/// Removes modules that are not needed and decompresses the others, which an emulated processor
/// would take seconds for.
fn shrink(modules: &Path) -> Result<()> {
    let mut compressed = Vec::new();
    for path in files(modules)? {
        let inside = path.strip_prefix(modules).unwrap_or(&path);
        if !is_kept(inside) {
            std::fs::remove_file(&path)?;
        } else if path.extension() == Some(OsStr::new("xz")) {
            compressed.push(path);
        }
    }
    for some in compressed.chunks(500) {
        exec(Command::new(busybox()).arg("unxz").args(some))?;
    }
    Ok(())
}

fn is_kept(module: &Path) -> bool {
    module.parent() == Some(Path::new("drivers/net"))
        || module.starts_with("lib")
        || KEPT.iter().any(|directory| module.starts_with(directory))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Makes `modules.dep` and `modules.alias`.
fn index(kernel: &Kernel) -> Result<()> {
    let base = kernel.modules.ancestors().nth(3);
    let base = base.context("modules are not below lib/modules")?;
    exec(
        Command::new(busybox())
            .args(["depmod", "-b"])
            .args([base.as_os_str(), OsStr::new(&kernel.release)]),
    )
}

/// Debian's static busybox, which set-up unpacks.
pub(super) fn busybox() -> PathBuf {
    workspace::tools().join("debs/bin/busybox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_for_networks_and_the_root_are_kept() {
        for (module, kept) in [
            ("net/sched/cls_bpf.ko", true),
            ("lib/crc/crc32.ko.xz", true),
            ("fs/9p/9p.ko", true),
            ("drivers/net/veth.ko", true),
            ("drivers/net/vxlan/vxlan.ko", true),
            ("drivers/net/ethernet/intel/ice/ice.ko", false),
            ("drivers/gpu/drm/drm.ko", false),
            ("fs/btrfs/btrfs.ko", false),
        ] {
            assert_eq!(is_kept(Path::new(module)), kept, "{module}");
        }
    }
}
