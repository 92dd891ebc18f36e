//! Flows between pods that the host's stack translates: services, published ports.
//!
//! A pod that talks to a service reaches a pod by way of the host's stack, which puts that pod's address
//! in the place of the service's. The answers must go the same way. So what the host sends from a pod
//! to a pod is remembered in `FLOWS`; the fast path itself never goes that way.

use bytemuck::Zeroable;

use super::Tables;
use crate::addr::Addr;
use crate::counters::DropReason;
use crate::maps::{FlowKey, PodValue, pod_flags};
use crate::packet::icmp;
use crate::packet::ip::Ip;
use crate::packet::{Front, ICMP, Packet, SCTP, TCP, UDP};

/// Length of the header of an ICMP error, before the quoted packet.
const ICMP_ERROR_LEN: u32 = 8;

/// Of the byte of TCP's flags: the first packet of a connection has the first and not the second.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Whether this packet, which a pod sends or gets, belongs to a flow that the host's stack translates.
///
/// `pod` is the pod. Costs nothing if no such flow has ever concerned it.
#[inline(always)]
pub(super) fn is_translated<T: Tables>(
    packet: &impl Packet,
    ip: &Ip,
    pod: &PodValue,
    tables: &T,
) -> bool {
    if !concerns(pod) {
        return false;
    }
    // The host's stack needs all fragments of a packet, and only the first has ports.
    let mut flow = FlowKey::zeroed();
    ip.is_fragment || (key(packet, ip, Direction::Along, &mut flow) && tables.is_translated(&flow))
}

/// Whether a packet from or to a pod that the host has translated flows for opens a TCP connection.
///
/// A connection to a service may have had the same ports. Its entry would send the answers by way of a
/// connection tracker that has not seen this connection begin.
#[inline(always)]
pub(super) fn opens(packet: &impl Packet, ip: &Ip, pod: &PodValue) -> bool {
    const FLAGS: u32 = 13;
    concerns(pod)
        && ip.protocol == TCP
        && !ip.is_later_fragment
        && packet
            .bytes::<1>(ip.l4 + FLAGS)
            .is_some_and(|[flags]| flags & (SYN | ACK) == SYN)
}

/// Whether a packet for `pod`, whose inner frame starts at `offset` and is `front`, opens a connection that
/// has not been translated, so that what `FLOWS` says of these ports is of the past. Writes the key into
/// `flow`, which is empty.
///
/// For what comes from other nodes; costs nothing if no translated flow has ever concerned the pod.
#[inline(always)]
pub fn ends_former_flow(
    packet: &impl Packet,
    front: &Front,
    offset: u32,
    pod: &PodValue,
    flow: &mut FlowKey,
) -> bool {
    if !concerns(pod) {
        return false;
    }
    match Ip::parse(packet, front, offset, DropReason::Malformed) {
        Ok(ip) => opens(packet, &ip, pod) && key(packet, &ip, Direction::Against, flow),
        Err(_) => false,
    }
}

/// Writes into `flow`, which is empty, the key in `FLOWS` under which answers to this packet are looked for;
/// `false` if it has none.
///
/// Written in place because the compiler copies a flow that is not there, too, which the verifier refuses.
#[inline(always)]
pub fn answers(packet: &impl Packet, front: &Front, flow: &mut FlowKey) -> bool {
    match Ip::parse(packet, front, 0, DropReason::Malformed) {
        Ok(ip) => key(packet, &ip, Direction::Against, flow),
        Err(_) => false,
    }
}

/// How a key is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// As the packet goes.
    Along,
    /// The other way round.
    Against,
}

#[inline(always)]
const fn concerns(pod: &PodValue) -> bool {
    pod.flags & pod_flags::TRANSLATED != 0
}

/// Writes the packet's flow; of an ICMP error, that of the packet which it answers, turned round.
/// `false` for a fragment other than the first.
#[inline(always)]
fn key(packet: &impl Packet, ip: &Ip, direction: Direction, flow: &mut FlowKey) -> bool {
    if ip.is_later_fragment {
        return false;
    }
    if icmp::is_error(packet, ip) {
        return quoted(packet, ip, direction, flow);
    }
    let (src, dst) = ends(direction, flow);
    *src = ip.src;
    *dst = ip.dst;
    ports(packet, ip.protocol, ip.l4, direction, flow)
}

/// Where the source and the destination of the packet are written to.
#[inline(always)]
const fn ends(direction: Direction, flow: &mut FlowKey) -> (&mut Addr, &mut Addr) {
    match direction {
        Direction::Along => (&mut flow.src, &mut flow.dst),
        Direction::Against => (&mut flow.dst, &mut flow.src),
    }
}

/// Writes the flow of the packet that an ICMP error quotes; `false` if its ports are not there.
///
/// What was sent is quoted, so it goes the other way than the error.
#[inline(always)]
fn quoted(packet: &impl Packet, ip: &Ip, direction: Direction, flow: &mut FlowKey) -> bool {
    let direction = match direction {
        Direction::Along => Direction::Against,
        Direction::Against => Direction::Along,
    };
    let l3 = ip.l4 + ICMP_ERROR_LEN;
    let (src, dst) = ends(direction, flow);
    if ip.protocol == ICMP {
        let (Some([first]), Some([protocol])) = (packet.bytes(l3), packet.bytes(l3 + 9)) else {
            return false;
        };
        let (Some(from), Some(to)) = (packet.bytes(l3 + 12), packet.bytes(l3 + 16)) else {
            return false;
        };
        *src = Addr::from_v4(from);
        *dst = Addr::from_v4(to);
        let l4 = l3 + u32::from(first & 0x0f) * 4;
        ports(packet, protocol, l4, direction, flow)
    } else {
        // What is behind extension headers has no ports for us.
        packet.read(l3 + 8, &mut src.bytes)
            && packet.read(l3 + 24, &mut dst.bytes)
            && packet
                .bytes(l3 + 6)
                .is_some_and(|[protocol]| ports(packet, protocol, l3 + 40, direction, flow))
    }
}

/// Writes the protocol and both ports, which stay zero for protocols that have none.
#[inline(always)]
fn ports(
    packet: &impl Packet,
    protocol: u8,
    l4: u32,
    direction: Direction,
    flow: &mut FlowKey,
) -> bool {
    flow.protocol = protocol;
    if !matches!(protocol, TCP | UDP | SCTP) {
        return true;
    }
    let Some([a, b, c, d]) = packet.bytes::<4>(l4) else {
        return false;
    };
    (flow.src_port, flow.dst_port) = match direction {
        Direction::Along => ([a, b], [c, d]),
        Direction::Against => ([c, d], [a, b]),
    };
    true
}
