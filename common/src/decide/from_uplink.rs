//! What the uplink receives.

use super::inner::{self, Inner};
use super::{Tables, TunnelKey, configured, is_limited};
use crate::counters::DropReason;
use crate::maps::{BULK_BUCKETS, Config, PodValue};
use crate::packet::ecn::{self, Decapsulated};
use crate::packet::ip::Ip;
use crate::packet::outer::Outer;
use crate::packet::{ETHERNET_LEN, Front, Packet, TCP};
use crate::wire::{OVERHEAD_V4, OVERHEAD_V6};

/// Lengths of UDP and VXLAN headers and inner Ethernet header.
const MIN_UDP_LEN: u32 = 8 + 8 + 14;

/// What happens to a packet that the uplink received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FromUplink<'t> {
    /// Not VXLAN for us, as far as we can see: the host's own stack has it.
    NotOurs,
    /// Take the outer headers off and give it to a pod.
    Deliver {
        /// The pod.
        pod: &'t PodValue,
        /// New ECN bits of the inner packet, if they change.
        ecn: Option<u8>,
        /// What the outer headers are.
        outer: Decapsulation,
    },
    /// The same for an aggregate that ends in a TCP socket of the pod. Any other goes by the overlay device. The
    /// kernel has marked it as one in a tunnel, and not every kernel takes the mark off again: forwarded again, or cut
    /// into UDP datagrams, it would be cut wrongly. And the kernel's note where the transport header starts stays
    /// with the outer one, before the frame. A pod's stack notes it anew, but what sends a frame on without one (a bridge
    /// in the pod, the queueing discipline of a limited pod) believes it: Linux 7.3 takes the offset for one
    /// far behind the frame, and panics (`qdisc_pkt_len_segs_init`).
    DeliverAggregate {
        /// The pod.
        pod: &'t PodValue,
        /// New ECN bits of the inner packet, if they change.
        ecn: Option<u8>,
        /// What the outer headers are.
        outer: Decapsulation,
        /// Its bucket of flows, which have to follow it if it goes by the overlay device after all.
        bucket: u32,
    },
    /// Leave it to the overlay device.
    ToOverlay(Aside),
    /// Not allowed, or broken.
    Drop(DropReason),
}

/// Which headers decapsulation takes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulation {
    /// Bytes behind the outer Ethernet header, which becomes the inner packet's.
    pub len: u32,
    /// Whether the underlay is IPv6.
    pub is_v6: bool,
}

/// Why a packet goes by the overlay device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// A frame that the program cannot hand on. The packets of its bucket of flows have to follow it,
    /// or they would overtake it.
    Aggregate {
        /// The bucket.
        bucket: u32,
    },
    /// It follows an aggregate, which it would overtake.
    Follower,
    /// The whole packet has to be looked at to verify its UDP checksum. Others of its bucket follow it, too.
    Checksum {
        /// The bucket.
        bucket: u32,
    },
    /// It is for the host's own stack.
    Host,
}

/// Decides about a packet that came in by the uplink, and puts the inner frame's headers into `front`.
#[inline(always)]
pub fn from_uplink<'t, T: Tables>(
    packet: &impl Packet,
    front: &mut Front,
    tables: &'t T,
) -> FromUplink<'t> {
    let Some(config) = configured(tables) else {
        return FromUplink::NotOurs;
    };
    let mut outer = Outer::empty();
    let is_ours = outer.read(packet) && outer.is_to_us(config);
    if !is_ours || packet.is_tagged() || !packet.is_to_us() {
        return FromUplink::NotOurs;
    }
    match tunnel_packet(packet, &outer, front, tables, config) {
        Ok(decision) => decision,
        Err(reason) => FromUplink::Drop(reason),
    }
}

#[inline(always)]
fn tunnel_packet<'t, T: Tables>(
    packet: &impl Packet,
    outer: &Outer,
    front: &mut Front,
    tables: &'t T,
    config: &Config,
) -> Result<FromUplink<'t>, DropReason> {
    check_lengths(packet, outer)?;
    let vni = outer.vni().ok_or(DropReason::WrongVxlanFlags)?;
    if outer.is_v6() && !outer.has_udp_checksum() {
        return Err(DropReason::NoUdpChecksum);
    }
    let at = outer.headers_len();
    // Offsets that the compiler knows.
    let is_read = if outer.is_v6() {
        front.read(packet, OVERHEAD_V6.into())
    } else {
        front.read(packet, OVERHEAD_V4.into())
    };
    if !is_read {
        return Err(DropReason::Truncated);
    }
    let remote = outer.src();
    let key = TunnelKey { remote, vni };
    let inner = inner::accept(packet, at, front, &key, tables, config)?;
    let Inner::Pod(pod, ip) = inner else {
        return Ok(FromUplink::ToOverlay(Aside::Host));
    };
    let bucket = bucket(outer);
    if packet.exceeds(at + ETHERNET_LEN + u32::from(config.mtu)) {
        return Ok(FromUplink::ToOverlay(Aside::Aggregate { bucket }));
    }
    let is_aggregate = packet.gso_size() != 0;
    // An aggregate was made of packets that the kernel has verified, or by a sender on this machine.
    if !is_aggregate && outer.has_udp_checksum() && !outer.is_sum_right(packet, front) {
        return Ok(FromUplink::ToOverlay(Aside::Checksum { bucket }));
    }
    let follows = !is_aggregate && tables.follows_aggregate(bucket);
    let is_consumed = (is_aggregate || follows) && is_consumed(packet, pod, &ip);
    if follows && !is_consumed {
        return Ok(FromUplink::ToOverlay(Aside::Follower));
    }
    let ecn = match ecn::decapsulate(outer.ecn(), ip.ecn()) {
        Decapsulated::Keep => None,
        Decapsulated::Mark(mark) => Some(mark),
        Decapsulated::Drop => return Err(DropReason::CongestionMark),
    };
    let outer = Decapsulation {
        len: at,
        is_v6: outer.is_v6(),
    };
    Ok(match (is_aggregate, is_consumed) {
        (false, _) => FromUplink::Deliver { pod, ecn, outer },
        (true, true) => FromUplink::DeliverAggregate {
            pod,
            ecn,
            outer,
            bucket,
        },
        (true, false) => FromUplink::ToOverlay(Aside::Aggregate { bucket }),
    })
}

/// Whether the packet ends in a TCP socket of the pod. All packets of such a flow take the same way,
/// whatever other flows of their bucket do. The limit of a pod may cut an aggregate before it gets there.
#[inline(always)]
fn is_consumed(packet: &impl Packet, pod: &PodValue, ip: &Ip) -> bool {
    ip.protocol == TCP
        && !is_limited(pod)
        && !ip.is_later_fragment
        && pod.netns >= 0
        && packet.has_tcp_socket(ip, pod.netns)
}

/// The source port stands for the flow; the address tells apart senders that chose the same.
#[inline(always)]
fn bucket(outer: &Outer) -> u32 {
    let [_, _, high, low] = outer.src().low_bytes();
    let address = u32::from(u16::from_be_bytes([high, low]));
    (u32::from(outer.src_port()) ^ address) % BULK_BUCKETS
}

/// The lengths in the headers agree with each other and with the packet.
#[inline(always)]
fn check_lengths(packet: &impl Packet, outer: &Outer) -> Result<(), DropReason> {
    if packet.gso_size() != 0 {
        // Those of an aggregate may not fit their 16 bits.
        return Ok(());
    }
    let (ip_len, udp_len) = outer.lengths();
    if packet.len() < 14 + ip_len || udp_len < MIN_UDP_LEN {
        Err(DropReason::Truncated)
    } else if ip_len < outer.ip_header_len() + udp_len {
        Err(DropReason::Malformed)
    } else {
        Ok(())
    }
}
