//! Who else is there: one file per source, all behind [`Source`].

mod assemble;
mod cache;
mod config;
pub mod etcd;
mod file;
pub mod flannel;
mod follow;
mod kube;
mod parse;
mod problem;
pub mod traces;
mod underlay;
mod validate;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

pub use assemble::{assemble, remarks};
pub use cache::{Cache, CacheError};
pub use config::{
    ClusterConfig, Dscp, InvalidMode, InvalidVni, Mode, Network, NodeSpec, Remarks, Vni, Vtep,
    derived_vtep_mac,
};
pub use etcd::{EtcdError, EtcdSource};
pub use file::FileSource;
pub use kube::{
    ClientError as KubeClientError, KubeError, KubeOptions, KubeSource, RIGHTS as KUBE_RIGHTS,
};
pub use parse::parse;
pub use problem::Problem;
pub use underlay::{UnderlayError, own_underlay};

/// Why there is no (new) version of the cluster. The last good one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file cannot be read.
    #[error("cannot read the cluster file {path}: does it exist, and may the agent read it?")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the cluster file {path} is not TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The file says something that cannot be.
    #[error("the cluster file {path} is invalid:{}", problem::list(.problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// Changes of the file cannot be seen.
    #[error(
        "cannot watch {path} for changes: are there inotify instances left (fs.inotify.max_user_instances)?"
    )]
    Watch {
        /// The watched file or directory.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// What etcd says cannot be used, or it says nothing.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Of the Kubernetes source.
    #[error(transparent)]
    Kube(#[from] KubeError),
}

/// The next version of a cluster, whenever there is one.
pub type NextVersion<'a> =
    Pin<Box<dyn Future<Output = Result<ClusterConfig, ClusterError>> + Send + 'a>>;

/// Where the nodes of the cluster come from.
pub trait Source: Send {
    /// What it is, in two words: `file /etc/oxlan/cluster.toml`.
    fn describe(&self) -> String;

    /// At the first call what the source says now, afterwards what it says after its next change.
    ///
    /// An error reports a version that cannot be used; the caller keeps the one it has and asks again.
    fn next(&mut self) -> NextVersion<'_>;
}

/// Names of the sources that remember the cluster in a [`Cache`].
pub const REMEMBERING: [&str; 2] = ["kube", "etcd"];

/// What every source has to know of the agent.
#[derive(Debug, Clone)]
pub struct Own {
    /// Name of the own node in the cluster.
    pub node: String,
    /// Directory of what must survive a reboot.
    pub state_dir: PathBuf,
}

/// A source, chosen, with its own options.
#[derive(Debug, Clone)]
pub enum SourceOptions {
    /// A TOML file that names the nodes.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// etcd, in Flannel's layout.
    Etcd(etcd::Options),
    /// The Nodes of a Kubernetes cluster.
    Kube(KubeOptions),
}

impl SourceOptions {
    /// The source itself. It does nothing before it is asked for the first version.
    #[must_use]
    pub fn open(self, own: Own) -> Box<dyn Source> {
        match self {
            Self::File { path } => Box::new(FileSource::new(path, own.node)),
            Self::Etcd(options) => Box::new(EtcdSource::new(options, own)),
            Self::Kube(options) => Box::new(KubeSource::new(options, own)),
        }
    }
}
