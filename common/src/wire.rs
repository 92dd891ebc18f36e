//! Constants of the wire formats, with their sources.

/// Flannel's VXLAN port on Linux, which is Oxlan's default (IANA's is 4789, RFC 7348 section 5).
pub const DEFAULT_PORT: u16 = 8472;

/// Flannel's VNI, which is Oxlan's default.
pub const DEFAULT_VNI: u32 = 1;

/// Largest VNI: 24 bits (RFC 7348, section 5).
pub const MAX_VNI: u32 = 0x00ff_ffff;

/// Outer Ethernet-less cost of VXLAN over IPv4: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 bytes.
pub const OVERHEAD_V4: u16 = 50;

/// The same over IPv6: IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14 bytes.
pub const OVERHEAD_V6: u16 = 70;

/// IPv6 exists on a link from this MTU on, bytes (RFC 8200, section 5).
pub const MIN_MTU_V6: u16 = 1280;

/// The pods' IPv4 default gateway: link-local, the same on every node, answered by the programs.
pub const GATEWAY_V4: [u8; 4] = [169, 254, 1, 1];

/// The pods' IPv6 default gateway, `fe80::1`.
pub const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// MAC of the host side of every pod's veth, hence of both gateways. Locally administered, unicast.
pub const GATEWAY_MAC: [u8; 6] = [0x0e, 0x6f, 0x78, 0x6c, 0x61, 0x6e];

/// Lowest UDP source port of the tunnel; the range is Linux's default range of local ports.
const FLOW_PORT_MIN: u32 = 32768;

/// Highest UDP source port of the tunnel, exclusive.
const FLOW_PORT_MAX: u32 = 60999;

/// UDP source port for a flow, from its hash, as the kernel does it (include/net/udp.h, `udp_flow_src_port`).
///
/// Switches and receiving queues tell inner flows apart by it.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "below FLOW_PORT_MAX")]
pub const fn flow_port(hash: u32) -> u16 {
    // Only the upper bits count below; fold, so that the lower ones do, too.
    let hash = (hash ^ (hash << 16)) as u64;
    let range = (FLOW_PORT_MAX - FLOW_PORT_MIN) as u64;
    (FLOW_PORT_MIN + ((hash * range) >> 32) as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_ports_fill_their_range() {
        assert_eq!(flow_port(0), 32768);
        assert!(flow_port(u32::MAX) < 60999);
        assert_eq!(flow_port(0xffff_0000), 60998);
    }
}
