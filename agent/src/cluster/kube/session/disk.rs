//! The state on disk: written now and then, and what there is while the API server is away.

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::super::state::State;
use super::super::version::version;
use super::{PATIENCE, Session};
use crate::cluster::{Cache, ClusterConfig};

impl Session {
    /// The state on disk, while the server's is not there.
    pub(super) fn version_from_disk(&mut self, now: Instant) -> Option<ClusterConfig> {
        let waited = now >= self.begun + PATIENCE;
        let Some(cached) = &self.cached else {
            if self.due.take().is_some() {
                let reason = self.outage.problem().or(self.slow.as_deref());
                if let Some(reason) = reason.map(str::to_owned) {
                    self.say_waiting(&reason);
                }
            }
            return None;
        };
        let first = !self.delivered && (waited || self.outage.problem().is_some());
        let news = self.delivered && self.due.is_some_and(|due| now >= due);
        if !first && !news {
            return None;
        }
        self.due = None;
        let mut config = cached.config.clone();
        let problem = format!(
            "the nodes are those of {}, from the state directory, until the API server {} has sent its own",
            cached.written, self.url
        );
        self.add_problems(&mut config, vec![problem]);
        Some(config)
    }

    /// Writes the state to disk in the background.
    pub(super) fn save(&mut self, now: Instant) {
        if self.save.is_none_or(|at| now < at) {
            return;
        }
        self.save = None;
        self.saved = Some(now);
        let Some(own) = self.last_own.clone() else {
            return;
        };
        let Ok(config) = version(&self.table, &self.network, own) else {
            return;
        };
        let cache = self.cache.clone();
        let written = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let state = State::new(&config, self.describe(), written);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cache.save(&state) {
                tracing::warn!("{}", crate::datapath::chain(&error));
            }
        });
    }
}

/// A cluster from the disk.
pub(super) struct Cached {
    pub(super) config: ClusterConfig,
    /// When it was written, in words.
    written: String,
}

pub(super) fn cached(cache: &Cache, source: &str, own: &str) -> Option<Cached> {
    let state: State = cache.load()?;
    match state.config(source, own) {
        Ok(config) => Some(Cached {
            config,
            written: state.written,
        }),
        Err(error) => {
            tracing::warn!("the state of the cluster on disk cannot be used: {error}");
            None
        }
    }
}
