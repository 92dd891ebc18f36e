//! A valid description of the whole cluster.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use oxlan_common::addr::Mac;
use oxlan_common::wire::{DEFAULT_VNI, MAX_VNI};

/// A VXLAN network identifier: 24 bits (RFC 7348, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that is larger than 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no VXLAN network identifier: 0 to {MAX_VNI} is wanted")]
pub struct InvalidVni(pub u32);

impl Vni {
    /// Flannel's, which is ours when the cluster names none.
    pub const DEFAULT: Self = Self(DEFAULT_VNI);

    /// The identifier with this number.
    ///
    /// # Errors
    /// When it has more than 24 bits.
    pub const fn new(number: u32) -> Result<Self, InvalidVni> {
        if number <= MAX_VNI {
            Ok(Self(number))
        } else {
            Err(InvalidVni(number))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The cluster as its source describes it, checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// What all nodes share.
    pub network: Network,
    /// Every node, in the order of names.
    pub nodes: Vec<NodeSpec>,
    /// What the source has to say besides.
    pub remarks: Remarks,
}

/// What a source has to say of a version: words for people, as `oxlan status` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// What somebody has to put right, as a server that does not answer.
    pub problems: Vec<String>,
    /// What is as it should be and still worth knowing, as a node that is none of ours.
    pub notes: Vec<String>,
}

impl ClusterConfig {
    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        let found = self.nodes.binary_search_by(|n| n.name.as_str().cmp(name));
        found.ok().and_then(|i| self.nodes.get(i))
    }
}

/// What all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Prefixes that all pods of the cluster come from: one per family, IPv4 first.
    pub pod_cidrs: Vec<IpNet>,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// VXLAN port, UDP.
    pub port: u16,
    /// DSCP of the packets between nodes.
    pub dscp: Dscp,
    /// How packets get to the pods of other nodes.
    pub mode: Mode,
}

/// How packets get to the pods of other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// In VXLAN, whatever lies between.
    #[default]
    Vxlan,
    /// As they are, by the routes that the kernel has for the other nodes' pod CIDRs.
    Direct,
    /// As they are to nodes on the same link, in VXLAN to the others.
    Auto,
}

/// DSCP of outer packets (RFC 2474), hence how the underlay's queues treat them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dscp {
    /// Always this, 0 to 63.
    Fixed(u8),
    /// The inner packet's.
    Copy,
}

impl Dscp {
    /// Largest: six bits.
    pub const MAX: u8 = 63;
}

impl Default for Dscp {
    /// As Flannel's device has it.
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(dscp) => dscp.fmt(f),
            Self::Copy => f.write_str("copy"),
        }
    }
}

/// A text that names no [`Mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of \"vxlan\", \"direct\", \"auto\" is wanted")]
pub struct InvalidMode;

impl FromStr for Mode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        match text {
            "vxlan" => Ok(Self::Vxlan),
            "direct" => Ok(Self::Direct),
            "auto" => Ok(Self::Auto),
            _ => Err(InvalidMode),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::Direct => "direct",
            Self::Auto => "auto",
        })
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Prefixes that its pods come from: at most one per family, IPv4 first.
    pub pod_cidrs: Vec<IpNet>,
    /// Where it takes VXLAN: at least one, at most one per family, IPv4 first.
    pub vteps: Vec<Vtep>,
}

/// A VXLAN tunnel end point (RFC 7348).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// The node's address on the underlay.
    pub underlay: IpAddr,
    /// Destination MAC of the inner frames that are sent there.
    pub mac: Mac,
}

impl NodeSpec {
    /// Where `own` sends packets to this node's pods of the prefix `pods`: over the underlay of the
    /// same family, as Flannel does, if both nodes have it, else over the other one.
    ///
    /// None if the two have no family in common.
    #[must_use]
    pub fn vtep(&self, own: &Self, pods: &IpNet) -> Option<&Vtep> {
        let is_v4 = matches!(pods, IpNet::V4(_));
        let common = |is_v4: bool| {
            let of_family = |v: &&Vtep| v.underlay.is_ipv4() == is_v4;
            let own = own.vteps.iter().find(of_family);
            own.and_then(|_| self.vteps.iter().find(of_family))
        };
        common(is_v4).or_else(|| common(!is_v4))
    }

    /// Its underlay addresses, IPv4 first.
    pub fn underlay(&self) -> impl Iterator<Item = IpAddr> {
        self.vteps.iter().map(|v| v.underlay)
    }

    /// Its underlay address of the family of `like`.
    #[must_use]
    pub fn underlay_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.underlay().find(|a| a.is_ipv4() == like.is_ipv4())
    }

    /// MAC of its overlay device, if it is this node: one for all underlay addresses.
    #[must_use]
    pub fn vtep_mac(&self) -> Mac {
        self.vteps.first().map_or(Mac::ZERO, |v| v.mac)
    }
}

/// MAC of the VTEP of a node that names none, from its first underlay address: `0e:00` and the four
/// bytes of an IPv4 address, or `0e` and a hash of an IPv6 address.
///
/// Every node derives the same one. It is locally administered and unicast (IEEE 802, section 8.4).
#[must_use]
pub fn derived_vtep_mac(underlay: IpAddr) -> Mac {
    match underlay {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            Mac::new([0x0e, 0x00, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, ..] = fnv_1a(&v6.octets()).to_be_bytes();
            // Never an IPv4 address's.
            Mac::new([0x0e, a | 0x80, b, c, d, e])
        }
    }
}

/// The hash FNV-1a with 64 bits, which has to be the same on every node and in every version.
fn fnv_1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits() {
        assert_eq!(Vni::new(0xff_ffff).unwrap().get(), 0xff_ffff);
        assert_eq!(Vni::new(0x100_0000), Err(InvalidVni(0x100_0000)));
    }

    #[test]
    fn a_derived_mac_is_local_and_unicast() {
        let mac = derived_vtep_mac("192.168.50.1".parse().unwrap());
        assert_eq!(mac.to_string(), "0e:00:c0:a8:32:01");
        assert!(!mac.is_multicast());
        let v6 = |text: &str| derived_vtep_mac(text.parse().unwrap());
        assert_eq!(v6("fd00:50::1").to_string(), "0e:c6:88:64:b0:64");
        assert_ne!(v6("fd00:50::1"), v6("fd00:51::1"), "other subnets count");
    }

    fn node(underlay: &[&str]) -> NodeSpec {
        let vtep = |text: &&str| Vtep {
            underlay: text.parse().unwrap(),
            mac: Mac::ZERO,
        };
        NodeSpec {
            name: "n".into(),
            pod_cidrs: Vec::new(),
            vteps: underlay.iter().map(vtep).collect(),
        }
    }

    #[test]
    fn pods_go_over_their_own_family_if_both_nodes_have_it() {
        let (v4, v6, both) = (
            node(&["10.0.0.1"]),
            node(&["fd00::1"]),
            node(&["10.0.0.1", "fd00::1"]),
        );
        let way = |to: &NodeSpec, own: &NodeSpec, pods: &str| {
            let vtep = to.vtep(own, &pods.parse().unwrap());
            vtep.map(|v| v.underlay.to_string())
        };
        let (pods_v4, pods_v6) = ("10.244.1.0/24", "fd01::/64");
        assert_eq!(way(&both, &both, pods_v4).as_deref(), Some("10.0.0.1"));
        assert_eq!(way(&both, &both, pods_v6).as_deref(), Some("fd00::1"));
        assert_eq!(way(&both, &v4, pods_v6).as_deref(), Some("10.0.0.1"));
        assert_eq!(way(&v6, &both, pods_v4).as_deref(), Some("fd00::1"));
        assert_eq!(way(&v6, &v6, pods_v4).as_deref(), Some("fd00::1"));
        assert_eq!(way(&v6, &v4, pods_v4), None);
    }
}
