//! The network's configuration, followed in a task of its own: the file is read when it changes,
//! not whenever the API server tells of something.

use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::KubeError;
use crate::cluster::flannel::NetConf;
use crate::cluster::follow::{FollowError, Followed};

/// How long a file that cannot be watched is left alone.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(15);

/// The versions of the file. Dropping it ends the task.
pub(super) struct Follower {
    versions: mpsc::Receiver<Result<NetConf, KubeError>>,
    task: JoinHandle<()>,
}

impl Follower {
    pub(super) fn start(path: PathBuf) -> Self {
        let (sender, versions) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let place = path.display().to_string();
            let mut file = Followed::new(path);
            loop {
                let text = file.next().await;
                let unwatched = matches!(text, Err(FollowError::Watch { .. }));
                let version = text
                    .map_err(KubeError::from)
                    .and_then(|text| Ok(NetConf::parse(&text, &place)?));
                if sender.send(version).await.is_err() {
                    return;
                }
                if unwatched {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        Self { versions, task }
    }

    /// The next version, or why it cannot be used.
    pub(super) async fn next(&mut self) -> Result<NetConf, KubeError> {
        match self.versions.recv().await {
            Some(version) => version,
            // The task ends only when this value does.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}
