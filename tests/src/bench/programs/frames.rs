//! The packets that the programs run over: of 64 flows, to destinations that are spread over all pods and nodes.

use std::net::Ipv4Addr;

use oxlan_common::addr::{Addr, Mac};
use oxlan_common::maps::FlowKey;
use oxlan_common::wire::DEFAULT_PORT;

use super::Size;
use super::node::{
    GATEWAY, MTU, OTHER_VTEP, OWN_OVERLAY, OWN_UNDERLAY, OWN_UNDERLAY_V6, OWN_VTEP, POD_MAC,
    UPLINK_MAC, Way, pod, remote_pod, translated_pod,
};
use crate::packet::{ICMPV6, Ip, UDP, VXLAN_I, arp, checked, ethernet, solicitation, udp, vxlan};

/// Different packets per branch: as many flows take turns.
const FLOWS: u32 = 64;

/// Bytes of ordinary packets behind the UDP header.
const PAYLOAD: usize = 64;

/// Source port of flows that the host translates, and of others.
const TRANSLATED_PORT: u16 = 2000;
const PORT: u16 = 1000;

/// Destination port of all flows.
const SERVER_PORT: u16 = 53;

/// A node that is none, but sends tunnel packets.
const STRANGER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 9);

/// Somebody outside the cluster.
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn each_flow(frame: impl Fn(u32) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..FLOWS).map(frame).collect()
}

/// From a pod to others of this node.
pub(super) fn to_pods(size: Size, v6: bool) -> Vec<Vec<u8>> {
    each_flow(|flow| sent(pod(0, v6), local(size, flow, v6)))
}

/// From a pod to pods of other nodes.
pub(super) fn to_nodes(size: Size, v6: bool) -> Vec<Vec<u8>> {
    each_flow(|flow| sent(pod(0, v6), remote(size, flow, v6)))
}

/// From a pod to the world.
pub(super) fn to_world() -> Vec<Vec<u8>> {
    vec![sent(pod(0, false), WORLD.into())]
}

/// From the pod that has translated flows to pods of other nodes: those flows, or others.
pub(super) fn of_translated_pod(size: Size, is_translated: bool) -> Vec<Vec<u8>> {
    let port = if is_translated { TRANSLATED_PORT } else { PORT };
    each_flow(|flow| {
        let (src, dst) = (translated_pod(size, false), remote(size, flow, false));
        packet(src, dst, port, [GATEWAY, POD_MAC])
    })
}

/// The flows that the host translates.
pub(super) fn translated_flows(size: Size) -> Vec<FlowKey> {
    let flow = |flow| FlowKey {
        src: translated_pod(size, false),
        dst: remote(size, flow, false),
        src_port: TRANSLATED_PORT.to_be_bytes(),
        dst_port: SERVER_PORT.to_be_bytes(),
        protocol: UDP,
        pad: [0; 3],
    };
    (0..FLOWS).map(flow).collect()
}

/// From a pod to another node, one byte larger than fits, and not to be fragmented.
pub(super) fn too_large(v6: bool) -> Vec<Vec<u8>> {
    let headers = if v6 { 40 + 8 } else { 20 + 8 };
    let (src, dst) = (pod(0, v6), remote_pod(1, v6));
    let payload = usize::from(MTU) + 1 - headers;
    let mut ip = ip(src, dst);
    // Don't fragment (RFC 791, section 3.1); IPv6 has no such bit.
    ip.fragment = 0x4000;
    let segment = checked(&ip, udp(PORT, SERVER_PORT, &vec![0; payload]));
    vec![ip.frame(GATEWAY, POD_MAC, &segment)]
}

/// From a pod with an address that is not its own.
pub(super) fn spoofed(size: Size) -> Vec<Vec<u8>> {
    each_flow(|flow| sent(WORLD.into(), local(size, flow, false)))
}

/// A pod asks for its gateway's MAC.
pub(super) fn arp_request() -> Vec<Vec<u8>> {
    let own = Ipv4Addr::from(pod(0, false).low_bytes()).to_string();
    let message = arp(1, (POD_MAC, &own), (Mac::ZERO, "169.254.1.1"));
    vec![ethernet(Mac::BROADCAST, POD_MAC, [8, 6], &message)]
}

/// The same over IPv6.
pub(super) fn neighbour_solicitation() -> Vec<Vec<u8>> {
    let mut ip = Ip::new("::", "ff02::1:ff00:1", ICMPV6);
    (ip.src, ip.ttl) = (pod(0, true), 255);
    vec![ip.frame(GATEWAY, POD_MAC, &solicitation(&ip, "fe80::1", POD_MAC))]
}

/// From other nodes to pods, in the tunnel or as they are.
pub(super) fn received(size: Size, way: Way, v6: bool) -> Vec<Vec<u8>> {
    each_flow(|flow| {
        let node = node_of(size, flow);
        let (src, dst) = (remote_pod(node, v6), local(size, flow, v6));
        if way == Way::Direct {
            return packet(src, dst, PORT, [UPLINK_MAC, GATEWAY]);
        }
        tunnelled(way.underlay(node), way, flow, src, dst)
    })
}

/// The same to the pod that has translated flows; this is none of them.
pub(super) fn received_by_translated_pod(size: Size) -> Vec<Vec<u8>> {
    each_flow(|flow| {
        let node = node_of(size, flow);
        let (src, dst) = (remote_pod(node, false), translated_pod(size, false));
        tunnelled(Way::Vxlan.underlay(node), Way::Vxlan, flow, src, dst)
    })
}

/// What an address that is no node's has put into VXLAN.
pub(super) fn from_stranger(size: Size) -> Vec<Vec<u8>> {
    each_flow(|flow| {
        let (src, dst) = (remote(size, flow, false), local(size, flow, false));
        tunnelled(STRANGER.into(), Way::Vxlan, flow, src, dst)
    })
}

/// What a node has put into VXLAN with a source that is not its own: another node's would do, but two
/// nodes have none.
pub(super) fn with_foreign_source(size: Size) -> Vec<Vec<u8>> {
    each_flow(|flow| {
        let node = node_of(size, flow);
        let dst = local(size, flow, false);
        tunnelled(
            Way::Vxlan.underlay(node),
            Way::Vxlan,
            flow,
            WORLD.into(),
            dst,
        )
    })
}

/// What the kernel's VXLAN device has decapsulated.
pub(super) fn decapsulated(size: Size) -> Vec<Vec<u8>> {
    each_flow(|flow| {
        let (src, dst) = (remote(size, flow, false), local(size, flow, false));
        packet(src, dst, PORT, [OWN_VTEP, OTHER_VTEP])
    })
}

/// From the host, or from the pod that has translated flows by way of the host, to pods of other nodes.
pub(super) fn of_the_host(size: Size, for_pod: bool) -> Vec<Vec<u8>> {
    let src = if for_pod {
        translated_pod(size, false)
    } else {
        OWN_OVERLAY.into()
    };
    each_flow(|flow| {
        let dst = remote(size, flow, false);
        packet(src, dst, PORT, [OWN_VTEP, OWN_VTEP])
    })
}

/// From the host to a pod: what came from the world, or from another node's pod and is translated.
pub(super) fn by_the_host(size: Size, from_pod: bool) -> Vec<Vec<u8>> {
    each_flow(|flow| {
        let (src, dst) = if from_pod {
            (remote(size, flow, false), translated_pod(size, false))
        } else {
            (WORLD.into(), local(size, flow, false))
        };
        packet(src, dst, PORT, [POD_MAC, GATEWAY])
    })
}

/// A pod other than the first, which sends.
fn local(size: Size, flow: u32, v6: bool) -> Addr {
    pod(spread(flow, size.pods), v6)
}

fn remote(size: Size, flow: u32, v6: bool) -> Addr {
    remote_pod(node_of(size, flow), v6)
}

/// The other node of a flow.
fn node_of(size: Size, flow: u32) -> u32 {
    spread(flow, size.nodes)
}

/// Numbers from 1 to below `count`, far from each other.
fn spread(flow: u32, count: u32) -> u32 {
    1 + flow.wrapping_mul(0x9e37_79b1) % (count - 1)
}

/// A pod's packet to its gateway.
fn sent(src: Addr, dst: Addr) -> Vec<u8> {
    packet(src, dst, PORT, [GATEWAY, POD_MAC])
}

/// A datagram with the checksum that an IPv6 underlay needs inside; `macs` are those of destination and source.
fn packet(src: Addr, dst: Addr, port: u16, macs: [Mac; 2]) -> Vec<u8> {
    let ip = ip(src, dst);
    let segment = checked(&ip, udp(port, SERVER_PORT, &[0; PAYLOAD]));
    ip.frame(macs[0], macs[1], &segment)
}

fn ip(src: Addr, dst: Addr) -> Ip {
    let mut ip = Ip::new("0.0.0.0", "0.0.0.0", UDP);
    (ip.src, ip.dst) = (src, dst);
    ip
}

/// What the uplink receives from another node.
fn tunnelled(sender: Addr, way: Way, flow: u32, src: Addr, dst: Addr) -> Vec<u8> {
    let inner = packet(src, dst, PORT, [OWN_VTEP, OTHER_VTEP]);
    let port = u16::try_from(40_000 + flow).unwrap_or(u16::MAX);
    let datagram = udp(port, DEFAULT_PORT, &vxlan(VXLAN_I, 1, &inner));
    if way == Way::VxlanV6 {
        let outer = ip(sender, OWN_UNDERLAY_V6.into());
        outer.frame(UPLINK_MAC, GATEWAY, &checked(&outer, datagram))
    } else {
        let outer = ip(sender, OWN_UNDERLAY.into());
        outer.frame(UPLINK_MAC, GATEWAY, &datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_others_and_within_the_cluster() {
        for count in [2, 10, 5_000] {
            let all: Vec<u32> = (0..FLOWS).map(|flow| spread(flow, count)).collect();
            assert!(all.iter().all(|n| (1..count).contains(n)), "{all:?}");
        }
    }
}
