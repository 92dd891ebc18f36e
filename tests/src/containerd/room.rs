//! What one node's container runtime sees: the node's network, and file trees of its own.
//!
//! `ctr` reads `/etc/cni/net.d` and `/opt/cni/bin` and containerd's shims listen below `/run`, all at
//! fixed places. Each node has its own there, on top of the machine's, which stays as it is.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::netns::Netns;

/// A mount namespace, and the network namespace of a node.
///
/// The kernel removes its mounts when this value is dropped and the last process inside has ended.
#[derive(Debug)]
pub struct Room {
    mounts: File,
    netns: Netns,
    base: PathBuf,
}

impl Room {
    /// Makes one. The directory `shared` is the machine's own also inside; what is private goes
    /// below `base`, which must be below `shared`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a mount.
    pub fn create(netns: &Netns, shared: &Path, base: &Path) -> Result<Self> {
        for directory in [Self::etc(base), Self::opt(base)] {
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        // A thread of its own, so that the rest of this process stays where it is.
        let mounts = std::thread::scope(|scope| {
            let thread = scope.spawn(|| prepare(shared, base));
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(Self {
            mounts,
            netns: netns.clone(),
            base: base.to_owned(),
        })
    }

    /// A command inside.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mounts = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.mounts.as_raw_fd()
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={mounts}"));
        command.arg(format!("--net={}", self.netns.path().display()));
        command.arg("--").arg(program);
        command
    }

    /// Directory of the CNI configurations, as seen from outside.
    #[must_use]
    pub fn configurations(&self) -> PathBuf {
        Self::etc(&self.base)
    }

    /// Directory of the CNI plugins, as seen from outside.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        Self::opt(&self.base)
    }

    /// Ids of the processes inside; the containers, which have mounts of their own, are not among them.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let own = self.mounts.metadata()?.ino();
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
            let entry = entry?;
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process that ends meanwhile is none.
            if entry
                .path()
                .join("ns/mnt")
                .metadata()
                .is_ok_and(|of| of.ino() == own)
            {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    fn etc(base: &Path) -> PathBuf {
        base.join("etc/cni/net.d")
    }

    fn opt(base: &Path) -> PathBuf {
        base.join("opt/cni/bin")
    }
}

/// Enters a new mount namespace, puts the private trees up and returns the namespace.
fn prepare(shared: &Path, base: &Path) -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // Removals outside come through, nothing goes out.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount_at("none", Path::new("/"), "", flags, "")?;
    // Names of namespaces hold them; a namespace that its test deletes must not live on in here.
    while umount2("/run/netns", MntFlags::MNT_DETACH).is_ok() {}
    for tree in ["/etc", "/opt"] {
        overlay(
            tree,
            &base.join(&tree[1..]),
            &base.join(format!("{}.work", &tree[1..])),
        )?;
    }
    private_run(shared, &base.join("run"))?;
    File::open("/proc/thread-self/ns/mnt").context("cannot open the mount namespace")
}

/// Puts what is in `upper` on top of a tree of the machine.
fn overlay(tree: &str, upper: &Path, work: &Path) -> Result<()> {
    std::fs::create_dir_all(work)?;
    let data = format!(
        "lowerdir={tree},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount_at(
        "overlay",
        Path::new(tree),
        "overlay",
        MsFlags::empty(),
        &data,
    )
}

/// An empty `/run`, in which only `shared` of the machine's is left.
fn private_run(shared: &Path, staging: &Path) -> Result<()> {
    std::fs::create_dir_all(staging)?;
    mount_at("tmpfs", staging, "tmpfs", MsFlags::empty(), "mode=755")?;
    if let Ok(below) = shared.strip_prefix("/run") {
        let to = staging.join(below);
        std::fs::create_dir_all(&to)?;
        mount_at(&shared.to_string_lossy(), &to, "", MsFlags::MS_BIND, "")?;
    }
    mount_at(
        &staging.to_string_lossy(),
        Path::new("/run"),
        "",
        MsFlags::MS_MOVE,
        "",
    )
}

fn mount_at(source: &str, target: &Path, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), flags, Some(data))
        .with_context(|| format!("cannot mount {source} at {}", target.display()))
}
