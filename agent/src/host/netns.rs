//! Work inside another network namespace, always in a closure on a thread of its own.
//!
//! A thread that entered a namespace never serves anything else afterwards, so no other work can
//! ever end up in the wrong one.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path does not exist any more, or never did.
    #[error("the network namespace {path} does not exist: has the container ended?")]
    Gone {
        /// As the runtime gave it.
        path: PathBuf,
    },
    /// The path cannot be opened.
    #[error("cannot open the network namespace {path}")]
    Open {
        /// As the runtime gave it.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The path is a file, but no network namespace.
    #[error("{path} is not a network namespace: a file below /proc/PID/ns or /run/netns is wanted")]
    NotANamespace {
        /// As the runtime gave it.
        path: PathBuf,
    },
    /// The path leads to the agent's own namespace.
    #[error("{path} is the node's own network namespace: a pod needs one of its own")]
    Own {
        /// As the runtime gave it.
        path: PathBuf,
    },
    /// The kernel refused to enter it.
    #[error("cannot enter the network namespace {path}: does the agent have CAP_SYS_ADMIN?")]
    Enter {
        /// As the runtime gave it.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// No thread for the work.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// An open network namespace: it cannot vanish while this is held.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at `path`, which must be another than the caller's.
    ///
    /// # Errors
    /// When it is gone, cannot be opened, is no network namespace, or is the caller's own.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        // A named pipe would make the agent wait for somebody who writes into it.
        let opened = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path);
        let file = opened.map_err(|source| {
            let path = path.into();
            if source.kind() == std::io::ErrorKind::NotFound {
                NetnsError::Gone { path }
            } else {
                NetnsError::Open { path, source }
            }
        })?;
        let netns = Self {
            file,
            path: path.into(),
        };
        netns.require_foreign_namespace()?;
        Ok(netns)
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside the namespace, on a thread of its own.
    ///
    /// # Errors
    /// When the namespace cannot be entered; the work's own outcome is inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        std::thread::scope(|scope| {
            let inside = || {
                setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter {
                    path: self.path.clone(),
                    source: errno.into(),
                })?;
                Ok(work())
            };
            let thread = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, inside)
                .map_err(NetnsError::Thread)?;
            match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// nsfs has one device number for all namespaces, and an inode per namespace.
    fn require_foreign_namespace(&self) -> Result<(), NetnsError> {
        let path = || self.path.clone();
        let open = |source| NetnsError::Open {
            path: path(),
            source,
        };
        let this = self.file.metadata().map_err(open)?;
        let own = std::fs::metadata("/proc/thread-self/ns/net").map_err(open)?;
        if this.dev() != own.dev() {
            Err(NetnsError::NotANamespace { path: path() })
        } else if this.ino() == own.ino() {
            Err(NetnsError::Own { path: path() })
        } else {
            Ok(())
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [&pipe, directory.path(), Path::new("/dev/null")] {
            let refused = Netns::open(path).unwrap_err();
            assert!(
                matches!(refused, NetnsError::NotANamespace { .. }),
                "{}: {refused}",
                path.display()
            );
        }
        let own = Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap_err();
        assert!(matches!(own, NetnsError::Own { .. }), "{own}");
    }
}
