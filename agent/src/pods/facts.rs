//! What the pods room needs to know about its node.

use std::net::IpAddr;

use ipnet::IpNet;

/// The node as its pods see it. It changes when the cluster's source or the uplink does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Prefixes from which pods are numbered, at most one per family.
    pub pod_cidrs: Vec<IpNet>,
    /// MTU of the pods' interfaces, bytes.
    pub mtu: u16,
}

impl NodeFacts {
    /// The node's own addresses in the overlay: the first of each pod CIDR.
    #[must_use]
    pub fn overlay_addresses(&self) -> Vec<IpAddr> {
        self.pod_cidrs.iter().map(IpNet::network).collect()
    }

    /// The overlay address of the same family as `address`: source of what the host sends to it.
    #[must_use]
    pub fn overlay_address_for(&self, address: IpAddr) -> Option<IpAddr> {
        self.overlay_addresses()
            .into_iter()
            .find(|overlay| overlay.is_ipv4() == address.is_ipv4())
    }
}
