//! Tells the container runtime of this network, when its pods can be attached and not before.

use tokio::task::JoinSet;

use super::{FIRST_RETRY, LAST_RETRY};
use crate::api::health::Probe;
use crate::cni::install::Configuration;

/// Writes the configuration, and until that is done the node does not pass for ready.
pub(super) fn tell(conf: Configuration, probe: Probe, tasks: &mut JoinSet<()>) {
    probe.set_obstacle(Some("the CNI configuration is not written yet".into()));
    tasks.spawn(async move {
        let mut pause = FIRST_RETRY;
        while let Some(problem) = write(conf.clone()).await {
            tracing::warn!("the container runtime is not told of this network: {problem}");
            probe.set_obstacle(Some(problem));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
        probe.set_obstacle(None);
    });
}

/// What kept it from being written.
async fn write(conf: Configuration) -> Option<String> {
    match tokio::task::spawn_blocking(move || conf.install()).await {
        Ok(Ok(written)) => {
            if let Some(path) = written {
                tracing::info!("wrote {}", path.display());
            }
            None
        }
        Ok(Err(error)) => Some(crate::datapath::chain(&error)),
        Err(_) => Some("the attempt was interrupted".into()),
    }
}
