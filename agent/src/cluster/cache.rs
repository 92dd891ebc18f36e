//! What a source has last seen, kept in the state directory: with it the agent starts while the source does not answer.
//! Also what the agent has left elsewhere.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::files::{self, Durability};

/// One source's file.
#[derive(Debug, Clone)]
pub struct Cache {
    path: PathBuf,
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot remember the cluster in {path}: without it the agent cannot start while its source does not answer"
)]
pub struct CacheError {
    path: PathBuf,
    source: io::Error,
}

impl Cache {
    /// `cluster-NAME.json` in the state directory.
    #[must_use]
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self {
            path: state_dir.join(format!("cluster-{name}.json")),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved last; nothing if there is none, or none that this version understands.
    #[must_use]
    pub fn load<T: DeserializeOwned>(&self) -> Option<T> {
        let text = std::fs::read(&self.path).ok()?;
        match serde_json::from_slice(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!("cannot use what was remembered of the cluster in {path}: {error}");
                None
            }
        }
    }

    /// Replaces what was saved: the old or the new version is there at any time, also after a power failure.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn save<T: Serialize>(&self, value: &T) -> Result<(), CacheError> {
        let written = (|| {
            if let Some(directory) = self.path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let text = serde_json::to_vec_pretty(value)?;
            files::replace(&self.path, &text, 0o600, Durability::Power)
        })();
        written.map_err(|source| CacheError {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_comes_back_and_what_is_broken_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(&directory.path().join("state"), "test");
        assert_eq!(cache.load::<Vec<u32>>(), None);
        for value in [vec![1, 2], vec![3]] {
            cache.save(&value).unwrap();
            assert_eq!(cache.load::<Vec<u32>>(), Some(value));
        }
        std::fs::write(directory.path().join("state/cluster-test.json"), "[1,").unwrap();
        assert_eq!(cache.load::<Vec<u32>>(), None);
    }

    #[test]
    fn a_failure_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state"), "in the way").unwrap();
        let cache = Cache::new(&directory.path().join("state"), "test");
        let error = cache.save(&1).unwrap_err().to_string();
        assert!(error.contains("cluster-test.json"), "{error}");
    }
}
