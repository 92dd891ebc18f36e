//! Neighbour solicitations and the answer to them (RFC 4861, sections 4.3 and 4.4).

use super::{ETHERNET_LEN, Front, ICMPV6, Packet, checksum};
use crate::addr::{Addr, Mac};

/// ICMPv6 type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6 type of a neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Length of the frame with the answer: Ethernet, IPv6, advertisement, one option.
pub const FRAME_LEN: usize = 14 + 40 + ADVERTISEMENT_LEN;

const ADVERTISEMENT_LEN: usize = 32;

/// Router, solicited, override.
const FLAGS: u8 = 0xe0;

/// Option "target link-layer address", its length in units of eight bytes.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];

/// The target of a solicitation without extension headers; `None` when it is not a valid one.
#[inline(always)]
pub fn target(packet: &impl Packet, front: &Front) -> Option<Addr> {
    const HOP_LIMIT: usize = 7;
    let solicitation = packet.bytes::<24>(ETHERNET_LEN + 40)?;
    let mut target = [0; 16];
    target.copy_from_slice(&solicitation[8..]);
    let is_valid = solicitation[..2] == [NEIGHBOUR_SOLICITATION, 0]
        && front.l3[HOP_LIMIT] == 255
        && target[0] != 0xff;
    is_valid.then_some(Addr::from_v6(target))
}

/// The frame that says that `target` has the MAC `mac`, to the sender of the solicitation `front`.
#[inline(always)]
#[must_use]
pub fn advertisement(front: &Front, target: &Addr, mac: Mac) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&front.src.bytes);
    frame[6..12].copy_from_slice(&mac.bytes);
    frame[12..14].copy_from_slice(&front.ethertype);
    // Version 6, traffic class and flow label 0.
    frame[14] = 0x60;
    frame[19] = 32;
    frame[20] = ICMPV6;
    frame[21] = 255;
    frame[22..38].copy_from_slice(&target.bytes);
    frame[38..54].copy_from_slice(&front.l3[8..24]);
    frame[54] = NEIGHBOUR_ADVERTISEMENT;
    frame[58] = FLAGS;
    frame[62..78].copy_from_slice(&target.bytes);
    frame[78..80].copy_from_slice(&TARGET_LINK_LAYER);
    frame[80..86].copy_from_slice(&mac.bytes);
    // Pseudo header (RFC 8200, section 8.1): both addresses, length and next header.
    let pseudo = checksum::of_words(&frame[22..54]) + 32 + u32::from(ICMPV6);
    let check = checksum::of(&frame[54..], pseudo);
    frame[56..58].copy_from_slice(&check);
    frame
}
