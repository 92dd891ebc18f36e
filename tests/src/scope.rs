//! A prefix under which everything of one cluster stands, so that it can be removed as a whole.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::run::host;

/// Start of every prefix of a test; the process id follows.
const TEST: &str = "oxt";

/// Directory of network namespaces' names, as iproute2 keeps it.
const NETNS_DIR: &str = "/run/netns";

/// Owner of all namespaces, pins and files whose name starts with its prefix.
///
/// Dropping it removes them, with all processes in those namespaces, also while a panic unwinds.
#[derive(Debug)]
pub struct Scope {
    prefix: String,
    keep: bool,
}

impl Scope {
    /// A scope for a test of this process. The first one of a process also removes what test
    /// processes left that were killed.
    ///
    /// # Errors
    ///
    /// If its directory cannot be made.
    pub fn for_test() -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{TEST}{}-{number}", std::process::id()))
    }

    /// A scope with this prefix.
    ///
    /// # Errors
    ///
    /// If its directory cannot be made.
    pub fn named(prefix: &str) -> Result<Self> {
        let scope = Self {
            prefix: prefix.to_owned(),
            keep: false,
        };
        let dir = scope.dir();
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(scope)
    }

    /// Leaves everything where it is when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Directory of this scope's files.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new("/run").join(&self.prefix)
    }

    /// Directory of this scope's pinned BPF objects.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.prefix)
    }

    /// Makes a network namespace whose loopback device is up.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::create(&format!("{}-{name}", self.prefix))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if !self.keep {
            remove(&self.prefix);
        }
    }
}

/// Removes everything that stands under a prefix. What cannot be removed is reported and passed over.
pub fn remove(prefix: &str) {
    let namespaces: Vec<String> = names(NETNS_DIR)
        .into_iter()
        .filter(|name| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('-'))
        })
        .collect();
    for name in &namespaces {
        kill_inside(name);
    }
    remove_dir(&Path::new("/sys/fs/bpf").join(prefix));
    for name in &namespaces {
        report(host(&format!("ip netns del {name}")));
    }
    remove_dir(&Path::new("/run").join(prefix));
}

/// Kills the processes whose network namespace is this one.
fn kill_inside(name: &str) {
    let Ok(pids) = host(&format!("ip netns pids {name}")) else {
        return;
    };
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // One that ended meanwhile is as good as killed.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}

fn remove_dir(path: &Path) {
    if path.exists() {
        let removed = std::fs::remove_dir_all(path);
        report(removed.with_context(|| format!("cannot remove {}", path.display())));
    }
}

fn report<T>(result: Result<T>) {
    if let Err(error) = result {
        eprintln!("clean-up: {error:#}");
    }
}

/// Removes what belongs to test processes that are gone.
fn sweep() {
    let mut prefixes: Vec<String> = ["/run", NETNS_DIR, "/sys/fs/bpf"]
        .iter()
        .flat_map(|directory| names(directory))
        .filter_map(|name| dead_prefix(&name))
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes.iter().for_each(|prefix| remove(prefix));
}

/// `oxt123-4` of `oxt123-4-node-1`, if no process 123 exists.
pub(crate) fn dead_prefix(name: &str) -> Option<String> {
    let (pid, rest) = name.strip_prefix(TEST)?.split_once('-')?;
    let number = rest.split('-').next()?;
    let valid = [pid, number].iter().all(|text| text.parse::<u32>().is_ok());
    (valid && !Path::new("/proc").join(pid).exists()).then(|| format!("{TEST}{pid}-{number}"))
}

fn names(directory: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_of_dead_processes_are_swept() {
        let own = std::process::id();
        assert_eq!(dead_prefix(&format!("oxt{own}-0-node-1")), None);
        // Larger than any process id (PID_MAX_LIMIT is 2^22).
        assert_eq!(
            dead_prefix("oxt4194999-3-node-1").as_deref(),
            Some("oxt4194999-3")
        );
        assert_eq!(dead_prefix("oxtail-3"), None);
        assert_eq!(dead_prefix("netns"), None);
    }
}
