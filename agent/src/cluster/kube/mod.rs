//! Kubernetes as a source: the Nodes, with Flannel's annotations, read and written.
//!
//! Nodes with Flannel and nodes with Oxlan see each other as one of theirs. The network's
//! configuration is Flannel's, too. Nothing else of the API server is asked.

mod announce;
mod announcer;
mod client;
mod follower;
mod heard;
mod node;
mod outage;
mod session;
mod state;
mod table;
mod translate;
mod version;

use std::path::PathBuf;

use super::flannel::NetConfError;
use super::follow::FollowError;
use super::{
    ClusterConfig, ClusterError, NextVersion, Own, Problem, Source, UnderlayError, problem,
};

pub use client::ClientError;
use session::Session;

/// All that the agent asks of the API server: resources of the core group, and the verbs. The manifest
/// and the documents grant this and nothing more.
pub const RIGHTS: [(&str, &[&str]); 2] =
    [("nodes", &["list", "watch"]), ("nodes/status", &["patch"])];

/// Options of the source.
#[derive(Debug, Clone)]
pub struct KubeOptions {
    /// The kubeconfig file; without one the agent runs in a Pod with a service account.
    pub kubeconfig: Option<PathBuf>,
    /// Flannel's network configuration.
    pub net_conf: PathBuf,
    /// What the keys of annotations begin with.
    pub annotation_prefix: String,
    /// The own underlay addresses; without any they are found.
    pub underlay: Vec<std::net::IpAddr>,
}

/// Why there is no (new) version of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The network's configuration cannot be read.
    #[error("the network configuration (--net-conf) cannot be read")]
    Follow(#[from] FollowError),
    /// The network's configuration cannot be used.
    #[error(transparent)]
    NetConf(#[from] NetConfError),
    /// The own Node, or the network, says something that cannot be.
    #[error("this node cannot be part of the cluster:{}", problem::list(.0))]
    Own(Vec<Problem>),
    /// The own underlay address is not known.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
}

/// The Nodes of a Kubernetes cluster, watched.
pub struct KubeSource {
    options: KubeOptions,
    own: Own,
    session: Option<Session>,
}

impl KubeSource {
    /// The Nodes as seen by `own`. Nobody is asked yet.
    #[must_use]
    pub fn new(options: KubeOptions, own: Own) -> Self {
        Self {
            options,
            own,
            session: None,
        }
    }

    async fn next_version(&mut self) -> Result<ClusterConfig, ClusterError> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session::begin(&self.options, &self.own).await?),
        };
        Ok(session.next().await?)
    }
}

impl Source for KubeSource {
    fn describe(&self) -> String {
        let session = self.session.as_ref();
        session.map_or_else(|| "kube".to_owned(), Session::describe)
    }

    fn next(&mut self) -> NextVersion<'_> {
        Box::pin(self.next_version())
    }
}
