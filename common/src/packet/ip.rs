//! IPv4 and IPv6 headers as one thing.

use super::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Front, ICMPV6, Packet, TCP, UDP, array};
use crate::addr::Addr;
use crate::counters::DropReason;

/// Extension headers that are walked before a packet counts as malformed.
const MAX_EXTENSIONS: usize = 6;

/// Header bytes that a first fragment must carry (RFC 7112, section 5): ports, or type and code.
const FIRST_FRAGMENT_L4: u32 = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// What of an IP header matters to a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol of the layer above, behind all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// A fragment of any kind, the first included.
    pub is_fragment: bool,
    /// A fragment other than the first: there is no header of the layer above.
    pub is_later_fragment: bool,
    /// Where the header of the layer above starts, bytes from the start of the packet.
    pub l4: u32,
    /// Where the IP header starts, bytes from the start of the packet.
    pub l3: u32,
}

impl Ip {
    /// Reads the IP header of the frame that starts at `offset`.
    ///
    /// # Errors
    ///
    /// The reason to drop the packet. `unsupported` is the one for a frame that is not IP.
    #[inline(always)]
    pub fn parse(
        packet: &impl Packet,
        front: &Front,
        offset: u32,
        unsupported: DropReason,
    ) -> Result<Self, DropReason> {
        match front.ethertype {
            ETHERTYPE_IPV4 => Self::parse_v4(packet, front, offset + ETHERNET_LEN),
            ETHERTYPE_IPV6 => Self::parse_v6(packet, front, offset + ETHERNET_LEN),
            _ => Err(unsupported),
        }
    }

    #[inline(always)]
    fn parse_v4(packet: &impl Packet, front: &Front, l3: u32) -> Result<Self, DropReason> {
        let h = &front.l3;
        let header_len = u32::from(h[0] & 0x0f) * 4;
        let total_len = u32::from(u16::from_be_bytes(array(h, 2)));
        if h[0] >> 4 != 4 || header_len < 20 {
            return Err(DropReason::Malformed);
        }
        check_length(packet, l3, header_len, total_len)?;
        let fragment = u16::from_be_bytes(array(h, 6)) & 0x3fff;
        let ip = Self {
            src: Addr::from_v4(array(h, 12)),
            dst: Addr::from_v4(array(h, 16)),
            protocol: h[9],
            hop_limit: h[8],
            traffic_class: front.traffic_class(),
            is_fragment: fragment != 0,
            is_later_fragment: fragment & 0x1fff != 0,
            l4: l3 + header_len,
            l3,
        };
        let is_first = fragment == 0x2000;
        ip.check_first_fragment(is_first, l3 + total_len)
    }

    #[inline(always)]
    fn parse_v6(packet: &impl Packet, front: &Front, l3: u32) -> Result<Self, DropReason> {
        let h = &front.l3;
        let payload_len = u32::from(u16::from_be_bytes(array(h, 4)));
        if h[0] >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        check_length(packet, l3, 40, 40 + payload_len)?;
        let mut ip = Self {
            src: Addr::from_v6(array(h, 8)),
            dst: Addr::from_v6(array(h, 24)),
            protocol: h[6],
            hop_limit: h[7],
            traffic_class: front.traffic_class(),
            is_fragment: false,
            is_later_fragment: false,
            l4: l3 + 40,
            l3,
        };
        if ip.src.is_v4() || ip.dst.is_v4() {
            // In our tables this would be the pod with that IPv4 address (RFC 4942, section 2.2:
            // v4-mapped addresses do not belong on the wire).
            return Err(DropReason::Malformed);
        }
        if is_extension(ip.protocol) {
            let is_first = ip.walk_extensions(packet)?;
            return ip.check_first_fragment(is_first, l3 + 40 + payload_len);
        }
        Ok(ip)
    }

    /// Goes to the header of the layer above; returns whether the packet is a first fragment.
    #[inline(always)]
    fn walk_extensions(&mut self, packet: &impl Packet) -> Result<bool, DropReason> {
        let mut is_first = false;
        for _ in 0..MAX_EXTENSIONS {
            if !is_extension(self.protocol) {
                return Ok(is_first);
            }
            let [next, len, offset_high, offset_low] =
                packet.bytes::<4>(self.l4).ok_or(DropReason::Truncated)?;
            let mut step = (u32::from(len) + 1) * 8;
            match self.protocol {
                AUTHENTICATION => step = (u32::from(len) + 2) * 4,
                FRAGMENT => {
                    step = 8;
                    let fragment = u16::from_be_bytes([offset_high, offset_low]);
                    self.is_fragment = true;
                    self.is_later_fragment = fragment & 0xfff8 != 0;
                    is_first = fragment & 0xfff9 == 1;
                }
                _ => {}
            }
            self.protocol = next;
            self.l4 += step;
            if self.is_later_fragment {
                return Ok(false);
            }
        }
        if is_extension(self.protocol) {
            return Err(DropReason::Malformed);
        }
        Ok(is_first)
    }

    /// A first fragment that hides its ports in the next one is refused.
    #[inline(always)]
    fn check_first_fragment(self, is_first: bool, end: u32) -> Result<Self, DropReason> {
        let has_ports = matches!(self.protocol, TCP | UDP | ICMPV6);
        if is_first && has_ports && end < self.l4 + FIRST_FRAGMENT_L4 {
            return Err(DropReason::Malformed);
        }
        Ok(self)
    }

    /// Whether a router may fragment the packet: IPv4 without DF (RFC 791).
    #[inline(always)]
    #[must_use]
    pub fn may_be_fragmented(&self, front: &Front) -> bool {
        const DF: u8 = 0x40;
        !front.is_v6() && front.l3[6] & DF == 0
    }

    /// The two ECN bits.
    #[inline(always)]
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }

    /// Destination port if this is UDP and the header is here.
    #[inline(always)]
    pub fn udp_dst_port(&self, packet: &impl Packet) -> Option<u16> {
        if self.protocol != UDP || self.is_later_fragment {
            return None;
        }
        packet.bytes::<2>(self.l4 + 2).map(u16::from_be_bytes)
    }

    /// ICMPv6 type if this is ICMPv6 and the header is here.
    #[inline(always)]
    pub fn icmpv6_type(&self, packet: &impl Packet) -> Option<u8> {
        if self.protocol != ICMPV6 || self.is_later_fragment {
            return None;
        }
        packet.bytes::<1>(self.l4).map(|[icmp_type]| icmp_type)
    }

    /// IP packet length on the wire: of each segment, if this is a GSO aggregate.
    #[inline(always)]
    pub fn wire_len(&self, packet: &impl Packet) -> u32 {
        let gso_size = packet.gso_size();
        if gso_size == 0 {
            return packet.len() - self.l3;
        }
        let l4_len = if self.protocol == TCP {
            let data_offset = packet.bytes::<1>(self.l4 + 12).unwrap_or([0x50]);
            u32::from(data_offset[0] >> 4) * 4
        } else {
            8
        };
        self.l4 - self.l3 + l4_len + gso_size
    }
}

/// The length in the header lies within the packet and covers the header itself.
///
/// Of an aggregate only the latter is asked: its length may not fit the 16 bits (BIG TCP).
#[inline(always)]
fn check_length(
    packet: &impl Packet,
    l3: u32,
    header_len: u32,
    total_len: u32,
) -> Result<(), DropReason> {
    if packet.gso_size() != 0 {
        return Ok(());
    }
    if total_len < header_len {
        return Err(DropReason::Malformed);
    }
    if l3 + total_len > packet.len() {
        return Err(DropReason::Truncated);
    }
    Ok(())
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}
