//! The outer headers of a received VXLAN packet: Ethernet, IPv4, UDP, VXLAN.

use bytemuck::{Pod, Zeroable};

use super::{ETHERTYPE_IPV4, Packet, UDP, array};
use crate::addr::Addr;

/// Words of the lead, Ethernet, IPv4 without options and UDP.
const UDP_END: usize = 1 + 42 / 2;

/// Words of the lead and all outer headers.
const ALL: usize = 1 + OUTER_LEN as usize / 2;

/// Bytes of all outer headers: here the inner frame starts.
pub const OUTER_LEN: u32 = 50;

/// Bytes that decapsulation removes: outer IPv4, UDP, VXLAN, and one of the two Ethernet headers.
pub const DECAPSULATED_LEN: u32 = 50;

/// Flags of a VXLAN header with a VNI and nothing else (RFC 7348, section 5).
const VXLAN_FLAGS: [u8; 4] = [0x08, 0, 0, 0];

/// Outer headers of a packet that may be ours.
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Outer {
    lead: [u8; 2],
    macs: [u8; 12],
    ethertype: [u8; 2],
    ip: [u8; 20],
    udp: [u8; 8],
    vxlan: [u8; 8],
    trail: [u8; 4],
}

impl Outer {
    /// Room for headers to be read into.
    #[inline(always)]
    #[must_use]
    pub fn empty() -> Self {
        Self::zeroed()
    }

    /// Reads the headers; `false` when the packet is too short to be UDP over IPv4.
    ///
    /// Of a packet that ends before the VXLAN header, that header reads as zero.
    #[inline(always)]
    pub fn read(&mut self, packet: &impl Packet) -> bool {
        let words: &mut [u16; 28] = bytemuck::cast_mut(self);
        packet.read_words(0, &mut words[1..ALL]) || packet.read_words(0, &mut words[1..UDP_END])
    }

    /// Whether this is an unfragmented UDP packet over IPv4 without options from and to the given endpoints.
    ///
    /// Whatever else could be VXLAN is left to the kernel's VXLAN device.
    #[inline(always)]
    #[must_use]
    pub fn is_to(&self, underlay: &Addr, port: u16) -> bool {
        let is_fragment = u16::from_be_bytes(array(&self.ip, 6)) & 0x3fff != 0;
        self.ethertype == ETHERTYPE_IPV4
            && self.ip[0] == 0x45
            && self.ip[9] == UDP
            && u16::from_be_bytes(array(&self.udp, 2)) == port
            && !is_fragment
            && self.dst() == *underlay
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub fn src(&self) -> Addr {
        Addr::from_v4(array(&self.ip, 12))
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub fn dst(&self) -> Addr {
        Addr::from_v4(array(&self.ip, 16))
    }

    /// The two ECN bits.
    #[inline(always)]
    #[must_use]
    pub fn ecn(&self) -> u8 {
        self.ip[1] & 3
    }

    /// UDP source port, which stands for the inner flow.
    #[inline(always)]
    #[must_use]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes(array(&self.udp, 0))
    }

    /// Whether somebody has to verify a UDP checksum.
    #[inline(always)]
    #[must_use]
    pub fn has_udp_checksum(&self) -> bool {
        array(&self.udp, 6) != [0; 2]
    }

    /// Length of the IP packet by its header, and of the UDP datagram by its own.
    #[inline(always)]
    #[must_use]
    pub fn lengths(&self) -> (u32, u32) {
        let ip = u16::from_be_bytes(array(&self.ip, 2));
        let udp = u16::from_be_bytes(array(&self.udp, 4));
        (u32::from(ip), u32::from(udp))
    }

    /// The VNI; `None` when the flags are not exactly those of a packet with a VNI.
    #[inline(always)]
    #[must_use]
    pub fn vni(&self) -> Option<u32> {
        let vni_and_reserved = u32::from_be_bytes(array(&self.vxlan, 4));
        let is_plain = array(&self.vxlan, 0) == VXLAN_FLAGS && vni_and_reserved & 0xff == 0;
        is_plain.then_some(vni_and_reserved >> 8)
    }
}
