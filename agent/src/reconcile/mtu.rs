//! How large packets may be: what the way to another node leaves for a pod's packet.

use std::net::IpAddr;

use ipnet::IpNet;
use oxlan_common::wire::{MIN_MTU_V6, OVERHEAD_V4, OVERHEAD_V6};

use super::desire::Facts;
use super::ways::Way;
use crate::cluster::NodeSpec;

/// Least MTU of a link, bytes (RFC 791).
const LEAST: u16 = 68;

impl Way<'_> {
    /// Largest packet of a pod that fits, bytes; none if there is no way, or its device has just gone.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::Tunnel(vtep, path) => Some(through_tunnel(path.mtu?, vtep.underlay)),
            Self::Direct(path) => Some(fits(path.mtu?)),
            Self::Nowhere => None,
        }
    }
}

impl<'a> Facts<'a> {
    /// Whether packets to the pods of another node in this prefix are lost though they are not larger than IPv6
    /// allows on any link, because VXLAN around them does not fit and cannot be fragmented.
    #[must_use]
    pub fn is_too_narrow(&self, node: &'a NodeSpec, prefix: &IpNet) -> bool {
        let way = self.way(node, prefix);
        matches!(prefix, IpNet::V6(_))
            && matches!(way, Way::Tunnel(vtep, _) if vtep.underlay.is_ipv6())
            && way.mtu().is_some_and(|mtu| mtu < MIN_MTU_V6)
    }
}

/// What VXLAN to this VTEP leaves.
fn through_tunnel(path: u32, vtep: IpAddr) -> u16 {
    let overhead = match vtep {
        IpAddr::V4(_) => OVERHEAD_V4,
        IpAddr::V6(_) => OVERHEAD_V6,
    };
    fits(path.saturating_sub(overhead.into()))
}

fn fits(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnel_takes_its_part() {
        let [v4, v6] = ["192.168.50.2", "fd00:50::2"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!(through_tunnel(1500, v4), 1450);
        assert_eq!(through_tunnel(1500, v6), 1430);
        assert_eq!(through_tunnel(9000, v4), 8950);
        assert_eq!(through_tunnel(65_536, v4), 65_486);
        assert_eq!(through_tunnel(100_000, v4), u16::MAX);
        assert_eq!(through_tunnel(60, v4), 68);
        assert_eq!(fits(1500), 1500);
    }
}
