//! One agent per run directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Name of the lock's file in the run directory.
pub(super) const FILE: &str = "agent.lock";

/// Why the lock was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("an agent is running with the run directory {run_dir} (process {pid}): stop it first")]
    Running {
        /// The run directory.
        run_dir: PathBuf,
        /// The other agent's process id.
        pid: String,
    },
    /// The file cannot be used.
    #[error("cannot lock {path}: is the run directory writable?")]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// The right to be the agent of a run directory, for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, making the run directory.
    ///
    /// # Errors
    /// When another agent has it, or the directory cannot be used.
    pub fn take(run_dir: &Path) -> Result<Self, LockError> {
        let path = run_dir.join(FILE);
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(run_dir).map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // For whoever meets the lock later.
                file.set_len(0).map_err(io)?;
                write!(file, "{}", std::process::id()).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
                Err(LockError::Running {
                    run_dir: run_dir.to_owned(),
                    pid: read.map_or_else(|_| "unknown".into(), |_| pid),
                })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_until_the_first_ends() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path()).unwrap();
        let refused = Lock::take(directory.path()).unwrap_err().to_string();
        let pid = std::process::id().to_string();
        assert!(refused.contains(&pid), "{refused}");
        drop(first);
        Lock::take(directory.path()).unwrap();
    }
}
