//! The control groups of a runtime's containers, under every hierarchy that the machine has.
//!
//! They are what finds a container's processes for certain, also those of a test that was killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::until;

const ROOT: &str = "/sys/fs/cgroup";

/// Ends all processes in the groups of this name and removes the groups.
///
/// # Errors
///
/// If a process does not end or a group cannot be removed.
pub fn remove(name: &str) -> Result<()> {
    let groups = groups(name);
    until(
        Duration::from_secs(5),
        &format!("end of the processes of {name}"),
        || {
            let pids: Vec<i32> = groups.iter().flat_map(|group| processes(group)).collect();
            if pids.is_empty() {
                return Ok(());
            }
            for pid in &pids {
                // One that ended meanwhile is as good as killed.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            bail!("these are left: {pids:?}")
        },
    )?;
    groups.iter().try_for_each(|group| remove_tree(group))
}

/// Names of the groups at the top of a hierarchy for which `wanted` is true.
#[must_use]
pub fn names(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names: Vec<String> = hierarchies()
        .iter()
        .flat_map(|hierarchy| children(hierarchy))
        .filter_map(|group| Some(group.file_name()?.to_str()?.to_owned()))
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn groups(name: &str) -> Vec<PathBuf> {
    let groups = hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(name));
    groups.filter(|group| group.is_dir()).collect()
}

/// The unified hierarchy alone, or one directory per controller of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.procs").exists() {
        vec![root]
    } else {
        children(&root)
    }
}

fn processes(group: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|pid| pid.parse().ok());
    own.chain(children(group).iter().flat_map(|child| processes(child)))
        .collect()
}

fn remove_tree(group: &Path) -> Result<()> {
    children(group)
        .iter()
        .try_for_each(|child| remove_tree(child))?;
    // The kernel may still be busy with a process that has just ended.
    until(Duration::from_secs(5), "removal of a control group", || {
        std::fs::remove_dir(group).with_context(|| format!("cannot remove {}", group.display()))
    })
}

/// Directories below this one.
fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let entries = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    entries.map(|entry| entry.path()).collect()
}
