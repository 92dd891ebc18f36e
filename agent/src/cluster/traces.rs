//! What the agent writes outside its own directories, noted in the state directory, so that `oxlan cleanup`
//! can remove what is only its own and name the rest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Cache;
use crate::host::files;

/// One thing that stays when the agent has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trace {
    /// A file with this text.
    File {
        /// Where it is.
        path: PathBuf,
        /// What the agent wrote there last.
        text: String,
    },
    /// Something that only the cluster's administrator should take away.
    Elsewhere {
        /// What it is, in words.
        what: String,
        /// The command that takes it away.
        command: String,
    },
}

/// Where one kind of trace is noted: each is written by one part of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Flannel's file for other programs.
    SubnetEnv,
    /// The own Node's annotations.
    Kube,
    /// The own subnet's key.
    Etcd,
}

/// What has become of a trace.
#[derive(Debug)]
pub enum Outcome {
    /// A file was removed.
    Removed(PathBuf),
    /// It stays, in words that say how to remove it.
    Left(String),
    /// A file cannot be removed.
    Failed(PathBuf, std::io::Error),
    /// The file is gone already.
    Gone,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SubnetEnv, Self::Kube, Self::Etcd];

    fn note(self, state_dir: &Path) -> Cache {
        let name = match self {
            Self::SubnetEnv => "trace-subnet-env",
            Self::Kube => "trace-kube",
            Self::Etcd => "trace-etcd",
        };
        Cache::new(state_dir, name)
    }

    /// Where it is noted.
    #[must_use]
    pub fn path(self, state_dir: &Path) -> PathBuf {
        self.note(state_dir).path().to_owned()
    }

    /// Notes a trace that is about to be left. That it cannot be noted is no reason not to leave it.
    pub fn leave(self, state_dir: &Path, trace: &Trace) {
        let note = self.note(state_dir);
        if note.load::<Trace>().as_ref() != Some(trace)
            && let Err(error) = note.save(trace)
        {
            tracing::warn!("{}", crate::datapath::chain(&error));
        }
    }

    /// Takes the noted trace away if nobody has changed it and nobody else needs it.
    #[must_use]
    pub fn take_away(self, state_dir: &Path) -> Outcome {
        match self.note(state_dir).load() {
            None => Outcome::Gone,
            Some(Trace::Elsewhere { what, command }) => {
                Outcome::Left(format!("{what}; remove it with: {command}"))
            }
            Some(Trace::File { path, text }) => match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Outcome::Gone,
                Err(error) => Outcome::Failed(path, error),
                Ok(there) if there == text.as_bytes() => match files::remove(&path) {
                    Ok(()) => Outcome::Removed(path),
                    Err(error) => Outcome::Failed(path, error),
                },
                Ok(_) => Outcome::Left(format!(
                    "{path}, which somebody else has changed; remove it with: rm {path}",
                    path = path.display()
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_has_changed_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let path = directory.path().join("subnet.env");
        assert!(matches!(Kind::SubnetEnv.take_away(&state), Outcome::Gone));
        let text = "FLANNEL_MTU=1450\n".to_owned();
        let trace = Trace::File {
            path: path.clone(),
            text: text.clone(),
        };
        Kind::SubnetEnv.leave(&state, &trace);
        assert!(matches!(Kind::SubnetEnv.take_away(&state), Outcome::Gone));
        std::fs::write(&path, "somebody else's").unwrap();
        let Outcome::Left(said) = Kind::SubnetEnv.take_away(&state) else {
            panic!("it is somebody else's");
        };
        assert!(said.contains("rm "), "{said}");
        std::fs::write(&path, &text).unwrap();
        assert!(matches!(Kind::SubnetEnv.take_away(&state), Outcome::Removed(p) if p == path));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_elsewhere_is_named_with_the_command() {
        let state = tempfile::tempdir().unwrap();
        let trace = Trace::Elsewhere {
            what: "the key K in etcd".into(),
            command: "etcdctl del K".into(),
        };
        Kind::Etcd.leave(state.path(), &trace);
        let Outcome::Left(said) = Kind::Etcd.take_away(state.path()) else {
            panic!("it is not ours to remove");
        };
        assert_eq!(said, "the key K in etcd; remove it with: etcdctl del K");
    }
}
