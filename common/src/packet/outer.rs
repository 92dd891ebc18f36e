//! The outer headers of a received VXLAN packet: Ethernet, IPv4 or IPv6, UDP, VXLAN.

use bytemuck::{Pod, Zeroable};

use super::checksum::{fold_long, native, native_of};
use super::inner_sum::inner_sum;
use super::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Front, Packet, UDP, array};
use crate::addr::Addr;
use crate::maps::Config;
use crate::wire::{OVERHEAD_V4, OVERHEAD_V6};

/// Flags of a VXLAN header with a VNI and nothing else (RFC 7348, section 5).
const VXLAN_FLAGS: [u8; 4] = [0x08, 0, 0, 0];

/// Lengths of IP headers without options and extension headers.
const V4_LEN: u32 = 20;
const V6_LEN: u32 = 40;

/// Outer headers of a packet that may be ours.
#[repr(C, align(8))]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Outer {
    lead: [u8; 2],
    macs: [u8; 12],
    ethertype: [u8; 2],
    /// An IPv4 header takes the first 20 bytes.
    ip: [u8; 40],
    udp: [u8; 8],
    vxlan: [u8; 8],
}

/// Where words of [`Outer`] start.
const IP_AT: usize = 8;
const UDP_AT: usize = IP_AT + 20;
const VXLAN_AT: usize = UDP_AT + 4;

impl Outer {
    /// Room for headers to be read into.
    #[inline(always)]
    #[must_use]
    pub fn empty() -> Self {
        Self::zeroed()
    }

    /// Reads the headers; `false` when the packet is too short to be UDP, or not IP.
    ///
    /// Of a packet that ends before the VXLAN header, that header reads as zero.
    #[inline(always)]
    pub fn read(&mut self, packet: &impl Packet) -> bool {
        if !packet.read_words(0, &mut self.words()[1..IP_AT + 10]) {
            return false;
        }
        match self.ethertype {
            ETHERTYPE_IPV4 => self.read_udp(packet, ETHERNET_LEN + V4_LEN),
            ETHERTYPE_IPV6 => {
                packet.read_words(34, &mut self.words()[IP_AT + 10..UDP_AT])
                    && self.read_udp(packet, ETHERNET_LEN + V6_LEN)
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn read_udp(&mut self, packet: &impl Packet, at: u32) -> bool {
        packet.read_words(at, &mut self.words()[UDP_AT..])
            || packet.read_words(at, &mut self.words()[UDP_AT..VXLAN_AT])
    }

    #[inline(always)]
    fn words(&mut self) -> &mut [u16; 36] {
        bytemuck::cast_mut(self)
    }

    /// Whether the underlay is IPv6.
    #[inline(always)]
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.ethertype == ETHERTYPE_IPV6
    }

    /// Bytes of all outer headers: here the inner frame starts.
    ///
    /// That is also what decapsulation removes: outer IP, UDP, VXLAN, and one of the two Ethernet headers.
    #[inline(always)]
    #[must_use]
    pub fn headers_len(&self) -> u32 {
        u32::from(if self.is_v6() {
            OVERHEAD_V6
        } else {
            OVERHEAD_V4
        })
    }

    /// Whether this is an unfragmented UDP packet without options or extension headers to our endpoint.
    ///
    /// Whatever else could be VXLAN is left to the kernel's VXLAN device.
    #[inline(always)]
    #[must_use]
    pub fn is_to_us(&self, config: &Config) -> bool {
        let is_plain = if self.is_v6() {
            // IPv4 addresses do not belong here (RFC 4942, section 2.2); the kernel throws them away.
            self.ip[0] >> 4 == 6 && self.ip[6] == UDP && !self.src().is_v4()
        } else {
            let is_fragment = u16::from_be_bytes(array(&self.ip, 6)) & 0x3fff != 0;
            self.ip[0] == 0x45 && self.ip[9] == UDP && !is_fragment
        };
        let dst = self.dst();
        is_plain
            && u16::from_be_bytes(array(&self.udp, 2)) == config.port
            && dst == *config.underlay_like(&dst)
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub fn src(&self) -> Addr {
        if self.is_v6() {
            Addr::from_v6(array(&self.ip, 8))
        } else {
            Addr::from_v4(array(&self.ip, 12))
        }
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub fn dst(&self) -> Addr {
        if self.is_v6() {
            Addr::from_v6(array(&self.ip, 24))
        } else {
            Addr::from_v4(array(&self.ip, 16))
        }
    }

    /// The two ECN bits.
    #[inline(always)]
    #[must_use]
    pub fn ecn(&self) -> u8 {
        // Of the traffic class, which lies across two bytes, they are the high ones of the second byte's half.
        (if self.is_v6() {
            self.ip[1] >> 4
        } else {
            self.ip[1]
        }) & 3
    }

    /// UDP source port, which stands for the inner flow.
    #[inline(always)]
    #[must_use]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes(array(&self.udp, 0))
    }

    /// Whether there is a UDP checksum.
    #[inline(always)]
    #[must_use]
    pub fn has_udp_checksum(&self) -> bool {
        array(&self.udp, 6) != [0; 2]
    }

    /// Whether the UDP checksum is right if the inner one is, which the pod will see to.
    ///
    /// `false` means that somebody has to look at the whole packet, or that it is not there yet: where
    /// the sender left it to a device that never came, it is the pseudo header's sum, and the kernel
    /// has noted where in the packet it belongs, so that nothing may be taken off there.
    #[inline(always)]
    pub fn is_sum_right(&self, packet: &impl Packet, front: &Front) -> bool {
        let (_, udp_len) = self.lengths();
        let addresses = if self.is_v6() {
            native_of(&array::<32>(&self.ip, 8))
        } else {
            native_of(&array::<8>(&self.ip, 12))
        };
        let pseudo = addresses + native(udp_len) + native(UDP.into());
        let check = u16::from_ne_bytes(array(&self.udp, 6));
        if check == fold_long(pseudo) || packet.len() + 16 != self.headers_len() + udp_len {
            return false;
        }
        let Some(inner) = inner_sum(packet, front, self.headers_len()) else {
            return false;
        };
        let headers = native_of(&self.udp) + native_of(&self.vxlan) + front.ethernet_sum();
        fold_long(pseudo + headers + u64::from(inner)) == 0xffff
    }

    /// Length of the IP header without options, of the IP packet by its header, and of the UDP datagram by its own.
    #[inline(always)]
    #[must_use]
    pub fn lengths(&self) -> (u32, u32) {
        let ip = if self.is_v6() {
            V6_LEN + u32::from(u16::from_be_bytes(array(&self.ip, 4)))
        } else {
            u32::from(u16::from_be_bytes(array(&self.ip, 2)))
        };
        (ip, u32::from(u16::from_be_bytes(array(&self.udp, 4))))
    }

    /// Length of the IP header.
    #[inline(always)]
    #[must_use]
    pub fn ip_header_len(&self) -> u32 {
        if self.is_v6() { V6_LEN } else { V4_LEN }
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
