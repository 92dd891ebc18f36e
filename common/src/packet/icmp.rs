//! ICMP errors: those of others, and our own for packets that are too large. These are "fragmentation
//! needed" (RFC 792, with the next hop's MTU of RFC 1191, section 4) and "packet too big" (RFC 4443,
//! section 3.2).

use super::{Front, ICMP, ICMPV6, Packet, checksum};
use crate::addr::{Addr, Mac};
use crate::packet::ip::Ip;

/// Bytes of the refused packet that the IPv4 answer quotes, if it has as many: all of the answer is
/// 576 bytes then (RFC 1812, section 4.3.2.3).
pub const QUOTE_V4: u16 = 576 - 28;

/// Bytes that are quoted where less than 576 fit: the largest header and the eight bytes behind it (RFC
/// 792), which is also the least MTU that there is (RFC 791).
pub const SHORT_QUOTE_V4: u16 = 68;

/// Bytes of the refused packet that the IPv6 answer quotes: all of the answer is 1280 bytes then
/// (RFC 4443, section 3.2). A packet that is too large for an IPv6 link has more.
pub const QUOTE_V6: u16 = 1280 - 48;

/// Length of IPv4 and ICMP headers.
pub const HEADERS_V4: u16 = 28;

/// Length of IPv6 and ICMPv6 headers.
pub const HEADERS_V6: u16 = 48;

/// Hop limit of the answers, Linux's default.
const HOP_LIMIT: u8 = 64;

/// ICMP type "destination unreachable", code "fragmentation needed and DF set".
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];

/// ICMPv6 type "packet too big".
const PACKET_TOO_BIG: [u8; 2] = [2, 0];

/// ICMP error messages (RFC 792): destination unreachable, source quench, redirect, time exceeded,
/// parameter problem.
const ICMP_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];

/// The last type of ICMPv6 error messages (RFC 4443, section 2.1).
const LAST_ICMPV6_ERROR: u8 = 127;

/// An answer to a packet that was too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Who answers: an address of the node.
    pub source: Addr,
    /// The largest packet that would fit, bytes.
    pub mtu: u16,
}

impl TooBig {
    /// Bytes that the answer to an IPv4 packet quotes: the packet is larger than the MTU, so it has them.
    #[inline(always)]
    #[must_use]
    pub const fn quote_v4(&self) -> u16 {
        if self.mtu < QUOTE_V4 + HEADERS_V4 {
            SHORT_QUOTE_V4
        } else {
            QUOTE_V4
        }
    }

    /// Ethernet, IPv4 and ICMP headers for the sender of `front`, whose first `quote` bytes follow and have
    /// this sum (see [`checksum::of_words`]).
    #[inline(always)]
    #[must_use]
    pub fn headers_v4(&self, front: &Front, mac: Mac, quote: u16, sum: u16) -> [u8; 42] {
        let mut frame = [0; 42];
        ethernet(&mut frame, front, mac);
        frame[14] = 0x45;
        // Network control, as a router's own messages have (RFC 1812, section 4.3.2.5).
        frame[15] = 0xc0;
        frame[16..18].copy_from_slice(&(HEADERS_V4 + quote).to_be_bytes());
        frame[22] = HOP_LIMIT;
        frame[23] = ICMP;
        frame[26..30].copy_from_slice(&self.source.low_bytes());
        frame[30..34].copy_from_slice(&front.l3[12..16]);
        let check = checksum::of(&frame[14..34], 0);
        frame[24..26].copy_from_slice(&check);
        frame[34..36].copy_from_slice(&FRAGMENTATION_NEEDED);
        frame[40..42].copy_from_slice(&self.mtu.to_be_bytes());
        let check = checksum::of(&frame[34..42], u32::from(sum));
        frame[36..38].copy_from_slice(&check);
        frame
    }

    /// Ethernet, IPv6 and ICMPv6 headers for the sender of `front`, whose first [`QUOTE_V6`] bytes follow and
    /// have this sum (see [`checksum::of_words`]).
    #[inline(always)]
    #[must_use]
    pub fn headers_v6(&self, front: &Front, mac: Mac, sum: u16) -> [u8; 62] {
        const LENGTH: u16 = QUOTE_V6 + 8;
        let mut frame = [0; 62];
        ethernet(&mut frame, front, mac);
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&LENGTH.to_be_bytes());
        frame[20] = ICMPV6;
        frame[21] = HOP_LIMIT;
        frame[22..38].copy_from_slice(&self.source.bytes);
        frame[38..54].copy_from_slice(&front.l3[8..24]);
        frame[54..56].copy_from_slice(&PACKET_TOO_BIG);
        frame[60..62].copy_from_slice(&self.mtu.to_be_bytes());
        // Pseudo header (RFC 8200, section 8.1).
        let pseudo = checksum::of_words(&frame[22..54]) + u32::from(LENGTH) + u32::from(ICMPV6);
        let check = checksum::of(&frame[54..62], pseudo + u32::from(sum));
        frame[56..58].copy_from_slice(&check);
        frame
    }
}

#[inline(always)]
fn ethernet(frame: &mut [u8], front: &Front, mac: Mac) {
    frame[..6].copy_from_slice(&front.src.bytes);
    frame[6..12].copy_from_slice(&mac.bytes);
    frame[12..14].copy_from_slice(&front.ethertype);
}

/// Whether this is an ICMP error, which quotes the packet that it is about.
#[inline(always)]
pub fn is_error(packet: &impl Packet, ip: &Ip) -> bool {
    if ip.protocol != ICMP && ip.protocol != ICMPV6 {
        return false;
    }
    let Some([kind]) = packet.bytes::<1>(ip.l4) else {
        return false;
    };
    if ip.protocol == ICMP {
        ICMP_ERRORS.contains(&kind)
    } else {
        kind <= LAST_ICMPV6_ERROR
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    const MAC: Mac = Mac::new([2; 6]);

    fn front(ethertype: [u8; 2], l3: [u8; 40]) -> Front {
        let mut front = Front::zeroed();
        front.ethertype = ethertype;
        front.l3 = l3;
        front
    }

    fn sum(bytes: &[u8]) -> u16 {
        checksum::fold(checksum::of_words(bytes))
    }

    proptest! {
        #[test]
        fn ipv4_checksums_are_right(l3: [u8; 40], mtu: u16, quote: [u8; 28]) {
            let front = front(ETHERTYPE_IPV4, l3);
            let answer = TooBig { source: Addr::from_v4([10, 244, 1, 0]), mtu };
            let frame = answer.headers_v4(&front, MAC, 28, sum(&quote));
            prop_assert_eq!(sum(&frame[14..34]), 0xffff);
            prop_assert_eq!(sum(&[&frame[34..], &quote[..]].concat()), 0xffff);
            prop_assert_eq!(&frame[16..18], &[0, 56]);
            prop_assert_eq!(&frame[30..34], &l3[12..16]);
            prop_assert_eq!(&frame[38..42], &[&[0, 0], &mtu.to_be_bytes()[..]].concat()[..]);
        }

        #[test]
        fn ipv6_checksum_is_right(l3: [u8; 40], mtu: u16, byte: u8) {
            let front = front(ETHERTYPE_IPV6, l3);
            let answer = TooBig { source: Addr::from_v6([0xfd; 16]), mtu };
            let quote = [byte; QUOTE_V6 as usize];
            let frame = answer.headers_v6(&front, MAC, sum(&quote));
            let pseudo = [&frame[22..54], &[0, 0, frame[18], frame[19], 0, 0, 0, ICMPV6]].concat();
            prop_assert_eq!(sum(&[&pseudo, &frame[54..], &quote[..]].concat()), 0xffff);
            prop_assert_eq!(&frame[38..54], &l3[8..24]);
            prop_assert_eq!(&frame[58..62], &[&[0, 0], &mtu.to_be_bytes()[..]].concat()[..]);
        }
    }
}
