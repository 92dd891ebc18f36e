//! How large packets may be: what the way to another node leaves for a pod's packet.

use std::net::IpAddr;

use oxlan_common::wire::{OVERHEAD_V4, OVERHEAD_V6};

use super::ways::Way;

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
