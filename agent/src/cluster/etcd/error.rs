//! Why etcd cannot be used.

use std::error::Error as _;
use std::path::PathBuf;

use crate::cluster::cache::CacheError;
use crate::cluster::flannel::NetConfError;
use crate::cluster::problem;
use crate::cluster::{Problem, UnderlayError};

/// Why there is no (new) version of the cluster from etcd.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No member answers, or none as it should.
    #[error("etcd at {endpoint} cannot be used: {}", words(.source))]
    Client {
        /// The member that was asked last.
        endpoint: String,
        /// What the client says.
        source: Box<etcd_client::Error>,
    },
    /// A member takes too long.
    #[error("etcd at {endpoint} does not answer: is it up, and is a leader elected?")]
    Silent {
        /// The member.
        endpoint: String,
    },
    /// A file with a certificate, a key or a password cannot be read.
    #[error("cannot read {path}, which {option} names")]
    File {
        /// The option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// An endpoint cannot be one.
    #[error("--etcd-endpoints {endpoint}: {wanted}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wanted instead.
        wanted: &'static str,
    },
    /// Nobody has written the network's configuration.
    #[error(
        "etcd has no key {key}: write Flannel's network configuration there, as {{\"Network\":\"10.244.0.0/16\",\"Backend\":{{\"Type\":\"vxlan\"}}}}"
    )]
    NoConfig {
        /// The key.
        key: String,
    },
    /// The network's configuration cannot be used.
    #[error(transparent)]
    NetConf(#[from] NetConfError),
    /// The network's prefixes cannot be.
    #[error("the network configuration in {key} cannot be used:{}", problem::list(.problems))]
    Network {
        /// The key.
        key: String,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// Flannel's layout has no names for it.
    #[error(
        "{key} EnableIPv4 = false: true is wanted, for in etcd a subnet is named by its IPv4 prefix"
    )]
    NoIpv4 {
        /// The key.
        key: String,
    },
    /// All subnets are taken.
    #[error(
        "no subnet of {network} is free: {taken} are taken; make SubnetMin to SubnetMax of {key} wider, or wait for a lease to expire"
    )]
    Full {
        /// The network.
        network: String,
        /// How many are taken.
        taken: usize,
        /// The key of the configuration.
        key: String,
    },
    /// Others were faster every time.
    #[error("no subnet could be had in {attempts} attempts, others were faster every time")]
    Contended {
        /// How many.
        attempts: u32,
    },
    /// What this node says of itself cannot be.
    #[error("this node cannot be part of the cluster:{}", problem::list(.problems))]
    Own {
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
    /// The watch has ended.
    #[error("etcd at {endpoint} no longer tells of changes: {reason}")]
    Watch {
        /// The member.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// The own underlay addresses are not known.
    #[error(transparent)]
    Underlay(#[from] UnderlayError),
    /// The state directory cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl EtcdError {
    /// Wraps what the client says of a member.
    pub(super) fn client(endpoint: &str) -> impl Fn(etcd_client::Error) -> Self {
        let endpoint = endpoint.to_owned();
        move |source| Self::Client {
            endpoint: endpoint.clone(),
            source: Box::new(source),
        }
    }

    /// Whether asking again, or another member, cannot help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Client { source, .. } => is_refusal(source),
            Self::Watch { reason, .. } => says_refusal(reason),
            Self::Silent { .. } | Self::Contended { .. } => false,
            Self::File { .. }
            | Self::Endpoint { .. }
            | Self::NoConfig { .. }
            | Self::NetConf(_)
            | Self::Network { .. }
            | Self::NoIpv4 { .. }
            | Self::Full { .. }
            | Self::Own { .. }
            | Self::Underlay(_)
            | Self::Cache(_) => true,
        }
    }

    /// Whether it is the agent's options that are wrong, so that nobody meant it to run like this.
    pub(super) fn is_of_options(&self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::Endpoint { .. } | Self::Underlay(_)
        )
    }
}

/// How etcd says that a name, a password or a permission is missing or wrong.
fn is_refusal(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    says_refusal(status.message())
}

fn says_refusal(words: &str) -> bool {
    [
        "authentication failed",
        "permission denied",
        "user name is empty",
    ]
    .iter()
    .any(|refusal| words.contains(refusal))
}

/// The client's own words leave out what matters: why a connection failed.
fn words(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return chain(error);
    };
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A cause that repeats it all, with a number in words.
        if !text.contains(&more) && !more.contains(status.message()) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn chain(error: &etcd_client::Error) -> String {
    let mut text = error.to_string();
    if let etcd_client::Error::TransportError(transport) = error {
        let mut cause = transport.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
    }
    text
}
