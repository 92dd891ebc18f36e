//! The BPF file system, which holds pinned maps and links.

use anyhow::{Context, Result};

use super::Outcome;
use crate::exec::{as_root, exec};

const MOUNT_POINT: &str = "/sys/fs/bpf";

pub(super) fn ensure() -> Result<Outcome> {
    if is_mounted()? {
        return Ok(Outcome::Ready);
    }
    println!("==> mounting bpffs on {MOUNT_POINT}");
    exec(&mut as_root("mount", &["-t", "bpf", "bpf", MOUNT_POINT])?)
        .with_context(|| format!("no BPF file system on {MOUNT_POINT}"))?;
    Ok(Outcome::Installed)
}

fn is_mounted() -> Result<bool> {
    let mounts =
        std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    }))
}
