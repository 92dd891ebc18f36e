//! Kernel parameters below `/proc/sys/net`, and what they were before the agent changed them.
//!
//! That directory shows the network namespace of the task that opens it, not of whoever mounted
//! `/proc`, so it is right also for an agent that was started inside a namespace.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where parameters are, unless [`find_them_in`] said otherwise.
pub const DEFAULT_ROOT: &str = "/proc/sys";

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Name of the file with the originals in the state directory.
const MEMORY: &str = "sysctls.json";

/// Why a parameter cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The parameter cannot be written.
    #[error(
        "cannot set {key} to {value}: is /proc/sys (--proc-sys) writable, and is the agent root?"
    )]
    Write {
        /// The parameter, as `net/ipv4/ip_forward`.
        key: String,
        /// What was to be written.
        value: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The originals cannot be kept.
    #[error("cannot {action} {path}, which keeps the sysctls as they were before Oxlan")]
    Memory {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// From now on parameters are below this directory: in a container `/proc/sys` is read-only, and the
/// host's is somewhere else. Only the first call counts.
pub fn find_them_in(root: &Path) {
    ROOT.get_or_init(|| root.to_owned());
}

/// The file of a parameter, as `net/ipv4/ip_forward`.
#[must_use]
pub fn file(key: &str) -> PathBuf {
    let root = ROOT.get().map_or(Path::new(DEFAULT_ROOT), PathBuf::as_path);
    root.join(key)
}

/// The value of a parameter; none if it does not exist or cannot be read.
#[must_use]
pub fn read(key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file(key)).ok()?;
    Some(text.trim().to_owned())
}

/// Changes a parameter, without remembering what it was.
///
/// # Errors
/// When the system refuses.
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    std::fs::write(file(key), value).map_err(|source| SysctlError::Write {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Changes a parameter unless it has the value already, so that a read-only `/proc/sys` that is right will do.
///
/// # Errors
/// When the system refuses.
pub fn require(key: &str, value: &str) -> Result<(), SysctlError> {
    if read(key).as_deref() == Some(value) {
        return Ok(());
    }
    write(key, value)
}

/// What parameters were before the agent changed them, kept in the state directory.
#[derive(Debug)]
pub struct Originals {
    path: PathBuf,
    values: BTreeMap<String, Changed>,
}

/// A parameter that the agent changed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Changed {
    /// What it was.
    original: String,
    /// What it was set to.
    set: String,
}

impl Originals {
    /// Reads what a predecessor has left; an unreadable file counts as none.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(MEMORY);
        let text = std::fs::read(&path).unwrap_or_default();
        let values = serde_json::from_slice(&text).unwrap_or_default();
        Self { path, values }
    }

    /// The value before the agent's first change, if it made one.
    #[must_use]
    pub fn original(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|c| c.original.as_str())
    }

    /// Changes a parameter, after writing down what it was.
    ///
    /// # Errors
    /// When the system refuses either.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SysctlError> {
        if let Some(original) = read(key).filter(|o| o != value) {
            let known = self.values.get(key);
            let original = known.map_or(original, |c| c.original.clone());
            let set = value.to_owned();
            self.values
                .insert(key.to_owned(), Changed { original, set });
            self.save()?;
        }
        write(key, value)
    }

    /// Puts every parameter back that still has the value that the agent gave it, and forgets all.
    /// Says in words what was done.
    ///
    /// # Errors
    /// All that could not be put back; those are still remembered.
    pub fn restore(&mut self) -> (Vec<String>, Vec<SysctlError>) {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (key, changed) in std::mem::take(&mut self.values) {
            if read(&key).as_deref() != Some(changed.set.as_str()) {
                done.push(format!(
                    "left {key} alone: somebody else has changed it since"
                ));
            } else if let Err(error) = write(&key, &changed.original) {
                failed.push(error);
                self.values.insert(key, changed);
            } else {
                done.push(format!("set {key} back to {}", changed.original));
            }
        }
        let kept = if self.values.is_empty() {
            remove(&self.path)
        } else {
            self.save()
        };
        failed.extend(kept.err());
        (done, failed)
    }

    fn save(&self) -> Result<(), SysctlError> {
        let fresh = self.path.with_extension("tmp");
        let write = || -> io::Result<()> {
            std::fs::write(&fresh, serde_json::to_vec_pretty(&self.values)?)?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(|source| SysctlError::Memory {
            action: "write",
            path: self.path.clone(),
            source,
        })
    }
}

fn remove(path: &Path) -> Result<(), SysctlError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SysctlError::Memory {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
