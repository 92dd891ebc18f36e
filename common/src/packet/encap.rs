//! The headers that encapsulation puts in front of a pod's packet.

use bytemuck::{Pod, Zeroable};

use super::{Front, UDP, checksum};
use crate::addr::{Addr, Mac};
use crate::wire::{OVERHEAD_V4, flow_port};

/// TTL of the outer packet, Linux's default.
const OUTER_TTL: u8 = 64;

/// Everything from the outer IPv4 header to the part of the inner IP header that changes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Encapsulation {
    ip: [u8; 20],
    udp: [u8; 8],
    vxlan: [u8; 8],
    dst: Mac,
    src: Mac,
    ethertype: [u8; 2],
    /// Inner IP header up to and with IPv4's checksum.
    l3: [u8; 12],
    trail: [u8; 2],
}

/// Where an encapsulated packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Own underlay address.
    pub src: [u8; 4],
    /// Underlay address of the other VTEP.
    pub dst: [u8; 4],
    /// UDP destination port.
    pub port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// MAC of the other VTEP.
    pub dst_mac: Mac,
    /// Own VTEP's MAC.
    pub src_mac: Mac,
}

impl Tunnel {
    /// The tunnel between two underlay addresses, if both are IPv4.
    #[inline(always)]
    #[must_use]
    pub fn new(src: &Addr, dst: &Addr, port: u16, vni: u32, macs: (Mac, Mac)) -> Option<Self> {
        Some(Self {
            src: src.as_v4()?,
            dst: dst.as_v4()?,
            port,
            vni,
            dst_mac: macs.0,
            src_mac: macs.1,
        })
    }
}

impl Encapsulation {
    /// Bytes from the outer IPv4 header on that are written: with IPv4's checksum inside.
    pub const LEN: usize = OVERHEAD_V4 as usize + 12;

    /// The headers for a packet whose inner frame begins with `front` and is `frame_len` bytes long.
    ///
    /// `hash` is the flow's, `id` differs from packet to packet: their fragments must not be mixed up.
    /// DF is not set, as by the kernel's VXLAN device, so that a narrow underlay fragments instead of
    /// losing packets. ECN bits are copied (RFC 6040, section 4.1), DSCP is not.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "lengths of aggregates are set again when they are cut"
    )]
    pub fn new(
        tunnel: &Tunnel,
        front: &Front,
        ecn: u8,
        frame_len: u32,
        hash: u32,
        id: u16,
    ) -> Self {
        let udp_len = (frame_len + 16) as u16;
        let mut headers = Self {
            ip: ipv4(tunnel, ecn, udp_len + 20, id),
            udp: [0; 8],
            vxlan: [0x08, 0, 0, 0, 0, 0, 0, 0],
            dst: tunnel.dst_mac,
            src: tunnel.src_mac,
            ethertype: front.ethertype,
            l3: [0; 12],
            trail: [0; 2],
        };
        headers.udp[..2].copy_from_slice(&flow_port(hash).to_be_bytes());
        headers.udp[2..4].copy_from_slice(&tunnel.port.to_be_bytes());
        headers.udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        headers.vxlan[4..].copy_from_slice(&(tunnel.vni << 8).to_be_bytes());
        headers.l3.copy_from_slice(&front.l3[..12]);
        headers
    }

    /// The bytes to write behind the outer Ethernet header.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::bytes_of(self)[..Self::LEN]
    }
}

#[inline(always)]
fn ipv4(tunnel: &Tunnel, ecn: u8, len: u16, id: u16) -> [u8; 20] {
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[1] = ecn & 3;
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[8] = OUTER_TTL;
    ip[9] = UDP;
    ip[12..16].copy_from_slice(&tunnel.src);
    ip[16..20].copy_from_slice(&tunnel.dst);
    let check = checksum::of(&ip, 0);
    ip[10..12].copy_from_slice(&check);
    ip
}
