//! The record of one attachment, as it stands in memory, on disk and in the API.

use std::net::IpAddr;

use oxlan_common::addr::Mac;
use oxlan_common::maps::{PodValue, UNKNOWN_NETNS, pod_flags};
use serde::{Deserialize, Serialize};

use super::{Bandwidth, PortMapping};
use crate::host::shaper::TokenBucket;

/// Where an attachment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being made; if found at the agent's start, it is undone.
    Adding,
    /// Complete: the runtime has been or is about to be told so.
    Ready,
    /// Being taken away; if found at the agent's start, this is finished.
    Removing,
}

/// Which pod of an orchestrator an attachment belongs to, as far as the runtime told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLabels {
    /// `K8S_POD_NAMESPACE` of `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `K8S_POD_NAME` of `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `K8S_POD_UID` of `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// One interface in one container, and everything on the host that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The runtime's name of the container (`CNI_CONTAINERID`).
    pub container_id: String,
    /// Name of the interface inside the container (`CNI_IFNAME`).
    pub ifname: String,
    /// Name of the CNI network that asked for it; garbage collection stays within a network.
    pub network: String,
    /// Path of the container's network namespace (`CNI_NETNS`).
    pub netns: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Addresses of the pod, at most one per family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC of the interface inside the container.
    #[serde(with = "mac_text")]
    pub mac: Mac,
    /// Name of the host side of the veth pair.
    pub host_ifname: String,
    /// Interface index of the host side; 0 while it does not exist yet.
    pub host_ifindex: u32,
    /// MAC of the host side.
    #[serde(with = "mac_text")]
    pub host_mac: Mac,
    /// The node's number for the container's namespace, by which the programs ask for its sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<i32>,
    /// MTU of both sides, bytes.
    pub mtu: u16,
    /// The most that the network configuration allows, when it says so; `mtu` follows the node's below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_limit: Option<u16>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// How much it may send and receive.
    #[serde(default, skip_serializing_if = "Bandwidth::is_none")]
    pub bandwidth: Bandwidth,
    /// When ADD began, seconds since 1970 UTC.
    pub created: u64,
    /// The orchestrator's words for it.
    #[serde(default)]
    pub pod: PodLabels,
    /// Whether this agent has made the interface inside poll, so that it takes frames from XDP.
    #[serde(skip)]
    pub polls: bool,
    /// Whether somebody has made the interface inside unfit for frames since: it does not poll any more, or has
    /// a smaller MTU. TC delivers then.
    #[serde(skip)]
    pub unfit: bool,
}

impl Attachment {
    /// The value of `PODS` under each of its addresses.
    #[must_use]
    pub fn map_value(&self) -> PodValue {
        PodValue {
            ifindex: self.host_ifindex,
            flags: self.flags(),
            mac: self.mac,
            host_mac: self.host_mac,
            netns: self.netns_id.unwrap_or(UNKNOWN_NETNS),
        }
    }

    /// What must be on the host for it.
    #[must_use]
    pub fn desired(&self) -> DesiredPod {
        DesiredPod {
            host_ifname: self.host_ifname.clone(),
            host_ifindex: self.host_ifindex,
            mac: self.mac,
            host_mac: self.host_mac,
            netns_id: self.netns_id,
            addresses: self.addresses.clone(),
            mtu: self.mtu,
            limit: self.to_pod(),
            flags: self.flags(),
        }
    }

    /// What the host side may send, if that is limited.
    #[must_use]
    pub fn to_pod(&self) -> Option<TokenBucket> {
        self.bandwidth.to_pod.map(|rate| rate.bucket(self.mtu))
    }

    /// What the pod's side may send, if that is limited.
    #[must_use]
    pub fn from_pod(&self) -> Option<TokenBucket> {
        self.bandwidth.from_pod.map(|rate| rate.bucket(self.mtu))
    }

    /// An interface takes no frame that is longer than its own MTU, which may be less than the node's.
    /// Frames would pass by the limit of what the pod receives, too.
    fn flags(&self) -> u32 {
        if self.bandwidth.to_pod.is_some() {
            pod_flags::LIMITED
        } else if self.polls && !self.unfit && self.mtu_limit.is_none() {
            pod_flags::FRAMES
        } else {
            0
        }
    }
}

/// What must exist on the host for one complete attachment; the reconciler repairs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPod {
    /// Name of the host side of the veth pair.
    pub host_ifname: String,
    /// Its interface index.
    pub host_ifindex: u32,
    /// MAC of the pod's own interface: permanent neighbour of each address on the host side.
    pub mac: Mac,
    /// MAC of the host side.
    pub host_mac: Mac,
    /// The node's number for the pod's namespace.
    pub netns_id: Option<i32>,
    /// Addresses: a host route and a neighbour each.
    pub addresses: Vec<IpAddr>,
    /// MTU of both sides, bytes.
    pub mtu: u16,
    /// What the host side may send, if that is limited.
    pub limit: Option<TokenBucket>,
    /// Bits of [`pod_flags`] in its entries of `PODS`.
    pub flags: u32,
}

/// A MAC address as text in JSON.
pub(crate) mod mac_text {
    use oxlan_common::addr::Mac;
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(mac: &Mac, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(mac)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Mac, D::Error> {
        String::deserialize(input)?
            .parse()
            .map_err(de::Error::custom)
    }
}
