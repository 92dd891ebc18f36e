//! etcd as a source, in Flannel's layout: `config` is the network's configuration, and each key below
//! `subnets/` a subnet with the node that has it, on a lease that the node renews.
//!
//! Nodes with Oxlan and with Flannel share one etcd. What Flannel does there is in its
//! pkg/subnet/etcd: `local_manager.go` and `registry.go`.

mod acquire;
mod announcement;
mod choose;
mod client;
mod error;
mod memory;
mod record;
mod registry;
mod session;
mod source;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use acquire::{Applicant, Held, acquire};
pub use client::connect;
pub use error::EtcdError;
pub use record::{Holder, Subnet};
pub use registry::{Entry, Registry};
pub use session::list;
pub use source::EtcdSource;

/// How long a subnet stays a node's that does not renew it: Flannel's (`subnetTTL`).
pub const LEASE: Duration = Duration::from_secs(24 * 3600);

/// Where etcd is, and how to get in.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its members, as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: Prefix,
    /// Certificates of the authorities that may have signed the members', PEM.
    pub ca: Option<PathBuf>,
    /// Own certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name of the user, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// Own underlay addresses, if not those of the default routes.
    pub underlay: Vec<IpAddr>,
    /// How long the own subnet is leased for.
    pub lease: Duration,
}

/// What all keys of the network begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Flannel's.
    pub const DEFAULT: &str = "/coreos.com/network";

    /// A prefix, with or without `/` at its ends.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(format!("/{}", text.trim_matches('/')))
    }

    /// The key of the network's configuration.
    #[must_use]
    pub fn config(&self) -> String {
        format!("{}/config", self.0)
    }

    /// What the keys of subnets begin with.
    #[must_use]
    pub fn subnets(&self) -> String {
        format!("{}/subnets/", self.0)
    }

    /// What all of them begin with.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}/", self.0.trim_end_matches('/'))
    }

    /// Itself, without `/` at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
