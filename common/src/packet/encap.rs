//! The headers that encapsulation puts in front of a pod's packet.

use bytemuck::{Pod, Zeroable};

use super::{Front, UDP, checksum};
use crate::addr::{Addr, Mac};
use crate::wire::flow_port;

/// TTL or hop limit of the outer packet, Linux's default.
const OUTER_TTL: u8 = 64;

/// Bytes of an IPv4 header in [`Encapsulation::ip`], which has room for IPv6's.
const V4_AT: usize = 20;

/// Everything from the outer IP header to the part of the inner IP header that changes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Encapsulation {
    /// An IPv4 header takes the last 20 bytes.
    ip: [u8; 40],
    udp: [u8; 8],
    vxlan: [u8; 8],
    dst: Mac,
    src: Mac,
    ethertype: [u8; 2],
    /// Inner IP header up to and with IPv4's checksum.
    l3: [u8; 12],
    trail: [u8; 6],
}

/// Where an encapsulated packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Own underlay address.
    pub src: Addr,
    /// Underlay address of the other VTEP, of the same family.
    pub dst: Addr,
    /// UDP destination port.
    pub port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// MAC of the other VTEP.
    pub dst_mac: Mac,
    /// Own VTEP's MAC.
    pub src_mac: Mac,
}

/// What is encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Length of the inner frame, bytes.
    pub frame_len: u32,
    /// TOS or traffic class of the outer packet.
    pub traffic_class: u8,
    /// Hash of the flow.
    pub hash: u32,
    /// Identification of an IPv4 packet, which differs from packet to packet: their fragments must not be mixed up.
    pub id: u16,
    /// Sum of the inner IP packet (see [`super::inner_sum`]); counts for IPv6 only.
    pub sum: u32,
}

impl Encapsulation {
    /// Bytes from the end of the outer IP header on that are written: with IPv4's inner checksum inside.
    const BEHIND_IP: usize = 8 + 8 + 14 + 12;

    /// The headers for a packet whose inner frame begins with `front`.
    ///
    /// Over IPv4, DF is not set and there is no UDP checksum, as by the kernel's VXLAN device: a narrow
    /// underlay fragments instead of losing packets. Over IPv6 the checksum is a must (RFC 8200, section 8.1).
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "lengths of aggregates are set again when they are cut"
    )]
    pub fn new(tunnel: &Tunnel, front: &Front, carried: &Carried) -> Self {
        let udp_len = (carried.frame_len + 16) as u16;
        let mut headers = Self {
            ip: [0; 40],
            udp: [0; 8],
            vxlan: [0x08, 0, 0, 0, 0, 0, 0, 0],
            dst: tunnel.dst_mac,
            src: tunnel.src_mac,
            ethertype: front.ethertype,
            l3: [0; 12],
            trail: [0; 6],
        };
        headers.udp[..2].copy_from_slice(&flow_port(carried.hash).to_be_bytes());
        headers.udp[2..4].copy_from_slice(&tunnel.port.to_be_bytes());
        headers.udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        headers.vxlan[4..].copy_from_slice(&(tunnel.vni << 8).to_be_bytes());
        headers.l3.copy_from_slice(&front.l3[..12]);
        if tunnel.dst.is_v4() {
            headers.set_ipv4(tunnel, carried, udp_len);
        } else {
            headers.set_ipv6(tunnel, carried, udp_len);
        }
        headers
    }

    #[inline(always)]
    fn set_ipv4(&mut self, tunnel: &Tunnel, carried: &Carried, udp_len: u16) {
        let ip = &mut self.ip[V4_AT..];
        ip[0] = 0x45;
        ip[1] = carried.traffic_class;
        ip[2..4].copy_from_slice(&(udp_len + 20).to_be_bytes());
        ip[4..6].copy_from_slice(&carried.id.to_be_bytes());
        ip[8] = OUTER_TTL;
        ip[9] = UDP;
        ip[12..16].copy_from_slice(&tunnel.src.low_bytes());
        ip[16..20].copy_from_slice(&tunnel.dst.low_bytes());
        let check = checksum::of(ip, 0);
        ip[10..12].copy_from_slice(&check);
    }

    #[inline(always)]
    fn set_ipv6(&mut self, tunnel: &Tunnel, carried: &Carried, udp_len: u16) {
        // No flow label, as by the kernel's VXLAN device: packets of a flow that it carries must not
        // look like another flow on the way. The UDP source port stands for the flow.
        self.ip[0] = 0x60 | carried.traffic_class >> 4;
        self.ip[1] = carried.traffic_class << 4;
        self.ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        self.ip[6] = UDP;
        self.ip[7] = OUTER_TTL;
        self.ip[8..24].copy_from_slice(&tunnel.src.bytes);
        self.ip[24..40].copy_from_slice(&tunnel.dst.bytes);
        // From the addresses to the end of the inner Ethernet header.
        let headers = checksum::native_of(&bytemuck::bytes_of(self)[8..70]);
        let pseudo = checksum::native(udp_len.into()) + checksum::native(UDP.into());
        let sum = checksum::fold_long(headers + pseudo + u64::from(carried.sum));
        // Zero means "no checksum"; the other zero of one's complement is as good (RFC 768).
        let check = if sum == 0xffff { 0xffff } else { !sum };
        self.udp[6..8].copy_from_slice(&check.to_ne_bytes());
    }

    /// The bytes to write behind the outer Ethernet header.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let all = bytemuck::bytes_of(self);
        if self.ip[0] == 0 {
            &all[V4_AT..40 + Self::BEHIND_IP]
        } else {
            &all[..40 + Self::BEHIND_IP]
        }
    }
}
