//! What can go wrong with an attachment.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{DatapathFault, PortMapping};
use crate::host::ethtool::EthtoolError;
use crate::host::netns::NetnsError;
use crate::host::nftables::NftError;
use crate::host::rtnl::RtnlError;
use crate::host::veth::VethError;

/// Why an operation on an attachment failed. Nothing of a failed ADD is left on the node.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// ADD for something that is already there and alive.
    #[error(
        "container {container_id} already has the interface {ifname} ({addresses}): a runtime must call DEL before it calls ADD again"
    )]
    Duplicate {
        /// The runtime's name of the container.
        container_id: String,
        /// The interface inside the container.
        ifname: String,
        /// Addresses of what is there.
        addresses: String,
    },
    /// No record of the attachment.
    #[error("container {container_id} has no attachment {ifname} on this node")]
    Unknown {
        /// The runtime's name of the container.
        container_id: String,
        /// The interface inside the container.
        ifname: String,
    },
    /// Every address of a pod CIDR is in use.
    #[error(
        "no free address in {cidr}: all {in_use} are in use; remove pods, or give the node a larger pod CIDR in the cluster's configuration"
    )]
    Exhausted {
        /// The pod CIDR.
        cidr: IpNet,
        /// How many addresses are taken.
        in_use: u128,
    },
    /// The node has no pod CIDR.
    #[error("this node has no pod CIDR: give it one in the cluster's configuration")]
    NoPodCidr,
    /// The configuration wants more than the node's path carries.
    #[error("mtu {wanted} does not fit: this node's pods can have at most {limit}")]
    MtuTooLarge {
        /// From the network configuration.
        wanted: u16,
        /// The node's pod MTU.
        limit: u16,
    },
    /// The path is too narrow for IPv6.
    #[error(
        "the pods' MTU would be {mtu}, but IPv6 needs 1280: raise the uplink's MTU, or give the node no IPv6 pod CIDR"
    )]
    MtuTooSmall {
        /// What pods would have.
        mtu: u16,
    },
    /// A port of the host that leads to another pod already.
    #[error(
        "the host's {port} leads to container {container_id} already: choose another hostPort, or another hostIP for both"
    )]
    PortTaken {
        /// What was asked for.
        port: PortMapping,
        /// Whose it is.
        container_id: String,
    },
    /// An address of the host of a family in which the pod has none.
    #[error("the host's {0} cannot lead to a pod that has no address of this family")]
    PortFamily(PortMapping),
    /// The table of published ports cannot be written.
    #[error(transparent)]
    Ports(#[from] NftError),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused a change of links, addresses, routes or neighbours.
    #[error(transparent)]
    Rtnl(#[from] RtnlError),
    /// A side of the veth pair cannot be set up.
    #[error(transparent)]
    Veth(#[from] VethError),
    /// The interface inside cannot be made to poll.
    #[error(transparent)]
    Ethtool(#[from] EthtoolError),
    /// The datapath refused.
    #[error("the datapath cannot {action}")]
    Datapath {
        /// What was tried.
        action: &'static str,
        /// What it answered.
        source: DatapathFault,
    },
    /// The state directory refused.
    #[error(
        "cannot {action} {path}: is the state directory writable and its file system not full?"
    )]
    State {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A record on disk that cannot be read.
    #[error(
        "{path} is not an attachment's record that this version can read: its addresses stay taken until its pod is deleted, or the file while the agent is stopped"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// CHECK found differences.
    #[error("{}", .0.join("; "))]
    Differs(Vec<String>),
    /// Several things could not be taken away.
    #[error("{}", .0.join("; "))]
    Leftovers(Vec<String>),
    /// An address that a record claims is already somebody else's.
    #[error("address {0} is recorded for two attachments")]
    DoubleAddress(IpAddr),
    /// The operation's thread ended without an answer.
    #[error("the operation was interrupted because the agent is shutting down")]
    Interrupted,
}

impl PodError {
    /// The error with all its causes, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::datapath::chain(self)
    }
}
