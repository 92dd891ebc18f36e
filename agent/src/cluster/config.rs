//! A valid description of the whole cluster.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use oxlan_common::addr::{Addr, Mac};
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
    /// Its address on the underlay.
    pub underlay: IpAddr,
    /// MAC of its VTEP.
    pub vtep_mac: Mac,
}

/// MAC of the VTEP of a node that names none: `0e:00` and the last four bytes of its underlay address.
///
/// Every node derives the same one. It is locally administered and unicast (IEEE 802, section 8.4).
#[must_use]
pub fn derived_vtep_mac(underlay: IpAddr) -> Mac {
    let [a, b, c, d] = Addr::from(underlay).low_bytes();
    Mac::new([0x0e, 0x00, a, b, c, d])
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
    }
}
