//! The forms of the API's answers. Fields are added, never renamed or given another meaning.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Whether the node can do its work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "lowercase")]
pub enum Health {
    /// Pods can be attached, and forwarding works.
    #[default]
    Ready,
    /// No pods can be attached now; those that are there are forwarded for (CNI STATUS code 50).
    Unavailable(String),
    /// No pods can be attached, and those that are there may be cut off (CNI STATUS code 51).
    Limited(String),
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name in the cluster.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// Seconds since the agent was ready.
    pub uptime: u64,
    /// Whether it can do its work.
    #[serde(default)]
    pub health: Health,
    /// Where the cluster's nodes come from, as `file /etc/oxlan/cluster.toml`.
    pub source: String,
    /// What is wrong now and what to do, as an invalid new cluster file; empty when all is well.
    pub problems: Vec<String>,
    /// What is as it should be and worth knowing, as a node that the source leaves out, and why.
    #[serde(default)]
    pub notes: Vec<String>,
    /// First own underlay address.
    pub underlay: Option<IpAddr>,
    /// Where this node takes VXLAN: one or two, at most one per family, IPv4 first.
    #[serde(default)]
    pub vteps: Vec<VtepRow>,
    /// The device on the underlay; the first one if there are several.
    pub uplink: Device,
    /// All devices on the underlay.
    #[serde(default)]
    pub uplinks: Vec<Device>,
    /// Whether XDP runs on each of them.
    #[serde(default)]
    pub xdp: Vec<Xdp>,
    /// The overlay device.
    pub overlay: Device,
    /// Own VTEP MAC, as `0e:00:c0:a8:32:01`.
    pub vtep_mac: String,
    /// Prefixes that all pods of the cluster come from.
    pub network: Vec<IpNet>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// VXLAN port.
    pub port: u16,
    /// DSCP of the packets between nodes: `0` to `63`, or `copy` for the inner packet's.
    #[serde(default)]
    pub dscp: String,
    /// How packets get to the pods of other nodes: `vxlan`, `direct` or `auto`.
    #[serde(default)]
    pub mode: String,
    /// Prefixes that this node's pods come from.
    pub pod_cidrs: Vec<IpNet>,
    /// MTU of the pods, bytes.
    pub pod_mtu: u16,
    /// How many pods are attached.
    pub pods: usize,
    /// How many nodes the cluster has, this one included.
    pub nodes: usize,
    /// How the programs of the uplink and the overlay device are attached: `tcx` or `clsact`; those of pods are always filters of `clsact`.
    pub attach: String,
    /// Directory of the pinned maps and links.
    pub bpf_dir: String,
    /// Things that were put back after somebody else had changed them, since the agent's start.
    pub repairs: u64,
    /// Release of the running kernel.
    pub kernel: String,
    /// What this kernel can do beyond what every kernel has to.
    #[serde(default)]
    pub features: Vec<FeatureRow>,
}

/// Something that not every kernel can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureRow {
    /// Its name, as `tcx-links`.
    pub name: String,
    /// Whether the kernel did it when the agent tried at its start.
    pub available: bool,
    /// What is done with it.
    pub enables: String,
    /// What is done without it.
    pub without: String,
    /// What the kernel said, if it is not available.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// A network device of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its interface index; 0 while it does not exist.
    pub ifindex: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
}

/// Whether XDP runs on an uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// Name of the uplink.
    pub device: String,
    /// Whether it does; if not, the TC program does all of the work.
    pub used: bool,
    /// Why, or why not.
    pub reason: String,
}

/// `GET /v1/pods`: a list of these, in the order of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRow {
    /// Namespace of the pod, if the runtime told (`K8S_POD_NAMESPACE`).
    pub namespace: Option<String>,
    /// Name of the pod, if the runtime told (`K8S_POD_NAME`).
    pub name: Option<String>,
    /// The runtime's name of the container.
    pub container_id: String,
    /// The interface inside the container.
    pub ifname: String,
    /// Name of the CNI network.
    pub network: String,
    /// Path of the container's network namespace.
    pub netns: String,
    /// `adding`, `ready` or `removing`.
    pub phase: String,
    /// Addresses, at most one per family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC of the interface inside the container.
    pub mac: String,
    /// Host side of the veth pair.
    pub host: Device,
    /// Seconds since ADD.
    pub age: u64,
}

/// `GET /v1/nodes`: a list of these, in the order of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name in the cluster.
    pub name: String,
    /// Whether it is the node that answers.
    pub own: bool,
    /// Its first address on the underlay.
    pub underlay: IpAddr,
    /// MAC of the VTEP there.
    pub vtep_mac: String,
    /// Where it takes VXLAN: one or two, at most one per family, IPv4 first.
    #[serde(default)]
    pub vteps: Vec<VtepRow>,
    /// Prefixes of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether the kernel has a route to each underlay address that its pods are reached by; with
    /// `direct`, to each of its pod CIDRs.
    pub reachable: bool,
    /// Whether its pods are reached without encapsulation.
    #[serde(default)]
    pub direct: bool,
}

/// A VXLAN tunnel end point of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepRow {
    /// The node's address on the underlay.
    pub underlay: IpAddr,
    /// Destination MAC of inner frames.
    pub mac: String,
    /// Largest packet that fits on the way there, bytes; none for this node itself, and without a way.
    #[serde(default)]
    pub path_mtu: Option<u32>,
}

/// `GET /v1/routes`: a list of these, in the order of prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The prefix.
    pub prefix: IpNet,
    /// Name of the node that owns it, if the cluster's source still knows it.
    pub node: Option<String>,
    /// Whether it is this node's own prefix: nothing is encapsulated.
    pub local: bool,
    /// Underlay address of the VTEP.
    pub underlay: IpAddr,
    /// Where packets go next: the node itself, or a gateway. The first one of several.
    pub next_hop: IpAddr,
    /// Device towards the next hop.
    pub device: String,
    /// All next hops, if flows are spread over several.
    #[serde(default)]
    pub next_hops: Vec<NextHopRow>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Largest packet of a pod that fits towards the prefix, bytes.
    #[serde(default)]
    pub mtu: u16,
    /// MAC of the VTEP.
    pub vtep_mac: String,
    /// Whether the kernel has a route to the VTEP; with `direct`, to the prefix.
    pub reachable: bool,
    /// Whether nothing is encapsulated.
    #[serde(default)]
    pub direct: bool,
}

/// A next hop that takes a part of the flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopRow {
    /// The node itself, or a gateway.
    pub address: IpAddr,
    /// Device towards it.
    pub device: String,
    /// Its part, percent.
    pub share: u8,
}

/// Packets with one outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// The stable name of the verdict or drop reason.
    pub name: String,
    /// Packets since the maps were made; a GSO aggregate counts as one.
    pub packets: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
    /// What it means.
    pub explanation: String,
}

/// `GET /v1/drops`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// One row for every drop reason, also those with 0 packets, in the order of their numbers.
    pub drops: Vec<CounterRow>,
    /// One row for every verdict that is no drop, likewise.
    pub verdicts: Vec<CounterRow>,
}

/// Body of every answer that is not successful, except those of `/v1/cni/`, which have CNI's own form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, and what to do.
    pub error: String,
}
