//! A hash of the packet's flow, from headers that are at hand.
//!
//! The kernel has one (`bpf_get_hash_recalc`), but dissects the packet for it anew, which takes a quarter of
//! the time that encapsulation costs. Nobody but us sees this one: it makes the tunnel's source port and chooses a next hop.

use super::{ETHERNET_LEN, Front, Packet, SCTP, TCP, UDP, array};

/// An odd number whose bits look random: 2^64 divided by the golden ratio (Knuth, TAOCP 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hash of addresses, protocol and ports.
///
/// Without ports for what has none, for all fragments, since only the first has them, and behind options and
/// extension headers.
#[inline(always)]
pub fn flow_hash(packet: &impl Packet, front: &Front) -> u32 {
    let h = &front.l3;
    let is_v6 = front.is_v6();
    let protocol = if is_v6 { h[6] } else { h[9] };
    let hash = mix(u64::from(protocol), ports(packet, front, protocol));
    let hash = if is_v6 {
        let hash = mix(mix(hash, word(h, 8)), word(h, 16));
        mix(mix(hash, word(h, 24)), word(h, 32))
    } else {
        mix(hash, u64::from_ne_bytes(array(h, 12)))
    };
    // The upper bits of a product depend on all bits of its factors.
    (hash >> 32) as u32
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ product >> 32
}

#[inline(always)]
fn word(header: &[u8; 40], at: usize) -> u64 {
    u64::from_ne_bytes(array(header, at))
}

/// Both ports, 0 if there are none.
#[inline(always)]
fn ports(packet: &impl Packet, front: &Front, protocol: u8) -> u64 {
    if !matches!(protocol, TCP | UDP | SCTP) {
        return 0;
    }
    let mut ports = [0; 2];
    let is_read = if front.is_v6() {
        packet.read_words(ETHERNET_LEN + 40, &mut ports)
    } else {
        let is_fragment = u16::from_be_bytes(array(&front.l3, 6)) & 0x3fff != 0;
        front.l3[0] == 0x45 && !is_fragment && packet.read_words(ETHERNET_LEN + 20, &mut ports)
    };
    if is_read {
        u64::from(ports[0]) << 16 | u64::from(ports[1])
    } else {
        0
    }
}
