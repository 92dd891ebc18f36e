//! The sum over an inner packet, as it counts in the outer UDP checksum, from headers alone.
//!
//! A right checksum makes the sum over its segment the complement of the pseudo header's (RFC 1071),
//! whatever the payload is. So the outer checksum can be made and verified without a look at the
//! payload, also while the inner checksum is still to be filled in by a device. The kernel's local
//! checksum offload does the same (Documentation/networking/checksum-offloads.rst).
//!
//! If the inner checksum is wrong, so is the outer one: the packet is lost one hop earlier.

use super::checksum::{fold_long, native, native_of};
use super::{ETHERNET_LEN, Front, ICMP, ICMPV6, Packet, TCP, UDP, array};

/// Sum of the IP packet behind the Ethernet header of `front`, whose frame starts at `offset`; in
/// native byte order.
///
/// None where headers do not tell: aggregates, fragments, options and extension headers, UDP without a
/// checksum, other protocols, and frames that go on behind the packet.
#[inline(always)]
pub fn inner_sum(packet: &impl Packet, front: &Front, offset: u32) -> Option<u32> {
    if packet.gso_size() != 0 {
        return None;
    }
    let l3 = offset + ETHERNET_LEN;
    if front.is_v6() {
        v6(packet, front, l3)
    } else {
        v4(packet, front, l3)
    }
}

/// The header's own checksum makes its sum zero.
#[inline(always)]
fn v4(packet: &impl Packet, front: &Front, l3: u32) -> Option<u32> {
    let protocol = front.l3[9];
    let total_len = u32::from(u16::from_be_bytes(array(&front.l3, 2)));
    let is_fragment = u16::from_be_bytes(array(&front.l3, 6)) & 0x3fff != 0;
    if front.l3[0] != 0x45 || is_fragment || l3 + total_len != packet.len() || total_len < 20 {
        return None;
    }
    let l4_len = total_len - 20;
    match protocol {
        ICMP => Some(0),
        TCP | UDP if has_checksum(packet, protocol, l3 + 20, l4_len) => {
            let addresses = native_of(&array::<8>(&front.l3, 12));
            let pseudo = addresses + native(protocol.into()) + native(l4_len);
            Some((!fold_long(pseudo)).into())
        }
        _ => None,
    }
}

/// Addresses and length, in the header and in the pseudo header, cancel each other.
#[inline(always)]
fn v6(packet: &impl Packet, front: &Front, l3: u32) -> Option<u32> {
    let protocol = front.l3[6];
    let l4_len = u32::from(u16::from_be_bytes(array(&front.l3, 4)));
    if !matches!(protocol, TCP | UDP | ICMPV6) || l3 + 40 + l4_len != packet.len() {
        return None;
    }
    if !has_checksum(packet, protocol, l3 + 40, l4_len) {
        return None;
    }
    let rest = native_of(&array::<4>(&front.l3, 0)) + native_of(&array::<2>(&front.l3, 6));
    let pseudo = fold_long(native(protocol.into()));
    Some(u32::from(fold_long(rest)) + u32::from(!pseudo))
}

/// Whether the layer above has a checksum, which covers all that is behind the IP header.
#[inline(always)]
fn has_checksum(packet: &impl Packet, protocol: u8, l4: u32, l4_len: u32) -> bool {
    if protocol != UDP {
        return true;
    }
    let Some([len_high, len_low, check @ ..]) = packet.bytes::<4>(l4 + 4) else {
        return false;
    };
    u32::from(u16::from_be_bytes([len_high, len_low])) == l4_len && check != [0; 2]
}
