//! Packets as the programs see them: headers are copied out, judged, and written back.
//!
//! [`Packet::read`] is the only way to a packet's bytes, so there is one place where bounds count.

use bytemuck::{Pod, Zeroable};

use crate::addr::Mac;

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod encap;
pub mod flow_hash;
pub mod icmp;
pub mod inner_sum;
pub mod ip;
pub mod nd;
pub mod outer;

/// Length of an Ethernet header without a VLAN tag (IEEE 802.3).
pub const ETHERNET_LEN: u32 = 14;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of ARP.
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// A received packet and what the kernel knows about it.
pub trait Packet {
    /// Copies bytes from `offset` (0 is the Ethernet header) on; `false` when the packet ends before.
    fn read(&self, offset: u32, into: &mut [u8]) -> bool;

    /// [`read`](Self::read) for the headers that every packet has: `offset` is even and known to the
    /// compiler, like the length, so that this can be loads instead of a call.
    #[inline(always)]
    fn read_words(&self, offset: u32, into: &mut [u16]) -> bool {
        self.read(offset, bytemuck::cast_slice_mut(into))
    }

    /// Length from the Ethernet header on, bytes; of a GSO aggregate as a whole.
    fn len(&self) -> u32;

    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the device that the packet came in by.
    fn ifindex(&self) -> u32;

    /// Payload of each segment of a GSO aggregate, bytes; 0 for an ordinary packet.
    fn gso_size(&self) -> u32;

    /// Whether the packet carries a VLAN tag, which the kernel keeps outside the packet's bytes.
    fn is_tagged(&self) -> bool;

    /// Whether the fast path has lent the packet to the host's stack: it knows the destination and left
    /// the packet as it was.
    fn is_lent(&self) -> bool {
        false
    }

    /// Whether the frame was sent to the receiving device's own MAC.
    fn is_to_us(&self) -> bool;

    /// Whether this is more than the program can hand on, so that the packet's flow has to take another way.
    #[inline(always)]
    fn exceeds(&self, _len: u32) -> bool {
        false
    }

    /// Whether a TCP connection in the network namespace with this number, seen from the device's, is the packet's.
    ///
    /// `false` if nobody can tell. A listening socket is no connection: translation of addresses may send
    /// the connection elsewhere.
    #[inline(always)]
    fn has_tcp_socket(&self, _ip: &ip::Ip, _netns: i32) -> bool {
        false
    }

    /// `N` bytes from `offset` on.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes).then_some(bytes)
    }
}

/// An Ethernet header and the fixed part of the IPv4 or IPv6 header behind it.
///
/// The two bytes in front put the IP header on a multiple of eight, so that addresses are single loads.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Front {
    lead: [u8; 2],
    /// Destination MAC.
    pub dst: Mac,
    /// Source MAC.
    pub src: Mac,
    /// EtherType.
    pub ethertype: [u8; 2],
    /// IPv4: the first 20 bytes count; IPv6: all 40.
    pub l3: [u8; 40],
}

/// First byte of the frame in [`Front`].
const LEAD: usize = 2;

impl Front {
    /// Bytes of a frame that every packet we forward or answer has: Ethernet and 20 bytes.
    pub const MIN: usize = 34;

    /// Room for headers to be read into.
    #[inline(always)]
    #[must_use]
    pub fn empty() -> Self {
        Self::zeroed()
    }

    /// Reads the headers of the frame that starts at `offset`; `false` when it is too short.
    ///
    /// They are read in place because a program has 512 bytes of stack, and moving them costs some each time.
    #[inline(always)]
    pub fn read(&mut self, packet: &impl Packet, offset: u32) -> bool {
        if !packet.read_words(offset, &mut self.words()[1..18]) {
            return false;
        }
        self.ethertype != ETHERTYPE_IPV6 || packet.read_words(offset + 34, &mut self.words()[18..])
    }

    /// All of it, with the lead.
    #[inline(always)]
    fn words(&mut self) -> &mut [u16; 28] {
        bytemuck::cast_mut(self)
    }

    /// The first `N` words of the frame.
    #[inline(always)]
    #[must_use]
    pub fn frame_words<const N: usize>(&self) -> &[u16] {
        let words: &[u16; 28] = bytemuck::cast_ref(self);
        &words[1..=N]
    }

    /// The first `N` bytes of the frame.
    #[inline(always)]
    #[must_use]
    pub fn frame<const N: usize>(&self) -> &[u8] {
        &bytemuck::bytes_of(self)[LEAD..LEAD + N]
    }

    /// Puts in new MACs; the frame is for `dst` now.
    #[inline(always)]
    pub fn readdress(&mut self, dst: Mac, src: Mac) {
        self.dst = dst;
        self.src = src;
    }

    /// Whether this is an IPv6 packet.
    #[inline(always)]
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.ethertype == ETHERTYPE_IPV6
    }

    /// TOS or traffic class: DSCP and ECN (RFC 3168, section 5).
    #[inline(always)]
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        if self.is_v6() {
            self.l3[0] << 4 | self.l3[1] >> 4
        } else {
            self.l3[1]
        }
    }

    /// Length behind an IP header of `header_len` bytes, as the header tells it.
    #[inline(always)]
    #[must_use]
    pub fn payload_len(&self, header_len: u32) -> u32 {
        if self.is_v6() {
            u32::from(u16::from_be_bytes(array(&self.l3, 4)))
        } else {
            u32::from(u16::from_be_bytes(array(&self.l3, 2))).wrapping_sub(header_len)
        }
    }

    /// The Ethernet header as words in native byte order, summed.
    #[inline(always)]
    #[must_use]
    pub fn ethernet_sum(&self) -> u64 {
        // The lead is zero; with it, the header is four times four bytes.
        checksum::native_of(&bytemuck::bytes_of(self)[..16])
    }

    /// Takes one from TTL or hop limit, and returns what that adds to a sum over the packet (see [`checksum`]).
    #[inline(always)]
    #[must_use]
    pub fn decrement_hop_limit(&mut self) -> u32 {
        if self.is_v6() {
            let old = [self.l3[6], self.l3[7]];
            self.l3[7] = self.l3[7].wrapping_sub(1);
            checksum::difference(old, [self.l3[6], self.l3[7]])
        } else {
            let old = [self.l3[8], self.l3[9]];
            self.l3[8] = self.l3[8].wrapping_sub(1);
            self.repair_ipv4_checksum(old, [self.l3[8], self.l3[9]])
        }
    }

    /// Sets the two ECN bits, and returns what that adds to a sum over the packet.
    #[inline(always)]
    #[must_use]
    pub fn set_ecn(&mut self, ecn: u8) -> u32 {
        let old = [self.l3[0], self.l3[1]];
        if self.is_v6() {
            // The traffic class lies across the first two bytes; its low four bits are the high ones here.
            self.l3[1] = (self.l3[1] & !0x30) | ((ecn & 3) << 4);
            checksum::difference(old, [self.l3[0], self.l3[1]])
        } else {
            self.l3[1] = (self.l3[1] & !3) | (ecn & 3);
            self.repair_ipv4_checksum(old, [self.l3[0], self.l3[1]])
        }
    }

    /// The header's checksum absorbs the change of a word, so a sum over the packet stays as it is.
    #[inline(always)]
    fn repair_ipv4_checksum(&mut self, old: [u8; 2], new: [u8; 2]) -> u32 {
        let check = checksum::update([self.l3[10], self.l3[11]], old, new);
        self.l3[10] = check[0];
        self.l3[11] = check[1];
        0
    }
}

/// `N` bytes of a header from `at`, a constant, on.
///
/// A copy of constant size becomes one load, where single bytes would stay single bytes on the BPF target.
#[inline(always)]
pub(crate) fn array<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(ttl: u8, tos: u8, rest: [u8; 16]) -> Front {
        let mut front = Front::zeroed();
        front.ethertype = ETHERTYPE_IPV4;
        front.l3[0] = 0x45;
        front.l3[1] = tos;
        front.l3[2..18].copy_from_slice(&rest);
        front.l3[8] = ttl;
        let check = checksum::of(&front.l3[..10], checksum::of_words(&front.l3[12..20]));
        front.l3[10..12].copy_from_slice(&check);
        front
    }

    proptest! {
        #[test]
        fn ipv4_checksum_stays_right(ttl in 2u8.., tos: u8, rest: [u8; 16], ecn in 0u8..4) {
            let mut front = ipv4(ttl, tos, rest);
            prop_assert_eq!(front.decrement_hop_limit(), 0);
            prop_assert_eq!(front.set_ecn(ecn), 0);
            prop_assert_eq!(checksum::fold(checksum::of_words(&front.l3[..20])), 0xffff);
            prop_assert_eq!(front.l3[8], ttl - 1);
            prop_assert_eq!(front.l3[1], (tos & 0xfc) | ecn);
        }

        #[test]
        fn ipv6_difference_is_what_changes_in_the_sum(l3: [u8; 40], ecn in 0u8..4) {
            let mut front = Front::zeroed();
            front.ethertype = ETHERTYPE_IPV6;
            front.l3 = l3;
            let native = |l3: &[u8]| l3
                .chunks(2)
                .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
                .sum::<u32>();
            let before = native(&front.l3);
            let difference = front.decrement_hop_limit();
            let ecn_difference = front.set_ecn(ecn);
            let predicted = before + difference + ecn_difference;
            let same = |a: u32, b: u32| a % 0xffff == b % 0xffff;
            prop_assert!(same(predicted, native(&front.l3)));
        }
    }
}
