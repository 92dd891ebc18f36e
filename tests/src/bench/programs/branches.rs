//! The ways of a packet through each program that matter for its speed.

use std::net::Ipv4Addr;

use oxlan::datapath::Program;
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::counters::Verdict;
use oxlan_common::wire::DEFAULT_PORT;

use super::Size;
use super::calls::Call;
use super::node::{
    GATEWAY, OTHER_VTEP, OVERLAY, OWN_UNDERLAY, OWN_VTEP, POD, POD_MAC, UPLINK, UPLINK_MAC, pod,
    remote_pod, underlay,
};
use crate::packet::{Ip, UDP, VXLAN_I, udp, vxlan};

/// Different packets per branch: as many flows take turns.
const FLOWS: u32 = 64;

/// One way through a program.
pub(super) struct Branch {
    pub(super) name: &'static str,
    pub(super) program: Program,
    pub(super) ifindex: u32,
    /// What the program must decide.
    pub(super) outcome: Verdict,
    pub(super) frames: Vec<Vec<u8>>,
}

/// Every branch, over destinations that are spread over all pods and nodes of a cluster.
pub(super) fn all(size: Size) -> Vec<Branch> {
    let from_pod = |name, outcome, frame: &dyn Fn(u32) -> Vec<u8>| Branch {
        name,
        program: Program::FromPod,
        ifindex: POD,
        outcome,
        frames: (0..FLOWS).map(frame).collect(),
    };
    let world = |_| sent(pod(0, false), Ipv4Addr::new(192, 0, 2, 1).into());
    vec![
        from_pod("from_pod: to a pod here, IPv4", Verdict::LocalPod, &|n| {
            sent(pod(0, false), local(size, n, false))
        }),
        from_pod("from_pod: to a pod here, IPv6", Verdict::LocalPod, &|n| {
            sent(pod(0, true), local(size, n, true))
        }),
        from_pod("from_pod: to another node, IPv4", Verdict::ToVtep, &|n| {
            sent(pod(0, false), remote_pod(spread(n, size.nodes), false))
        }),
        from_pod("from_pod: to another node, IPv6", Verdict::ToVtep, &|n| {
            sent(pod(0, true), remote_pod(spread(n, size.nodes), true))
        }),
        from_pod("from_pod: to the world", Verdict::ToHost, &world),
        tunnelled("from_uplink: to a pod, IPv4", size, false),
        tunnelled("from_uplink: to a pod, IPv6", size, true),
        Branch {
            name: "to_overlay: to another node",
            program: Program::ToOverlay,
            ifindex: OVERLAY,
            outcome: Verdict::ToVtep,
            frames: sent_out(size),
        },
    ]
}

/// The helpers that the kernel runs for a packet of the branch with this name; none where they were not counted.
pub(in crate::bench) const fn calls_of(branch: &str) -> &'static [(Call, u32)] {
    match branch.as_bytes() {
        b"from_pod: to a pod here, IPv4" => {
            &[(Call::Lookup, 2), (Call::Store, 1), (Call::RedirectPeer, 1)]
        }
        b"from_pod: to another node, IPv4" => &[
            (Call::Lookup, 3),
            (Call::Grow, 1),
            (Call::Store, 1),
            (Call::RedirectNeigh, 1),
        ],
        b"from_uplink: to a pod, IPv4" => &[
            (Call::Lookup, 3),
            (Call::Shrink, 1),
            (Call::Store, 1),
            (Call::RedirectPeer, 1),
        ],
        _ => &[],
    }
}

/// What a pod sends to other nodes.
pub(super) fn sent_out(size: Size) -> Vec<Vec<u8>> {
    (0..FLOWS)
        .map(|n| sent(pod(0, false), remote_pod(spread(n, size.nodes), false)))
        .collect()
}

/// What the uplink receives from other nodes.
pub(super) fn received(size: Size) -> Vec<Vec<u8>> {
    tunnelled("", size, false).frames
}

/// A frame for `xdp_uplink`.
pub(super) fn live(size: Size) -> Vec<u8> {
    let frames = tunnelled("live", size, false).frames;
    frames.into_iter().next().unwrap_or_default()
}

fn tunnelled(name: &'static str, size: Size, v6: bool) -> Branch {
    let frame = |flow| {
        let node = spread(flow, size.nodes);
        let (src, dst) = (remote_pod(node, v6), local(size, flow, v6));
        encapsulated(node, flow, &packet(src, dst, OWN_VTEP, OTHER_VTEP))
    };
    Branch {
        name,
        program: Program::FromUplink,
        ifindex: UPLINK,
        outcome: Verdict::FromVtep,
        frames: (0..FLOWS).map(frame).collect(),
    }
}

/// A pod other than the first, which sends.
fn local(size: Size, flow: u32, v6: bool) -> Addr {
    pod(spread(flow, size.pods), v6)
}

/// Numbers from 1 to below `count`, far from each other.
fn spread(flow: u32, count: u32) -> u32 {
    1 + flow.wrapping_mul(0x9e37_79b1) % (count - 1)
}

/// A pod's packet to its gateway.
fn sent(src: Addr, dst: Addr) -> Vec<u8> {
    packet(src, dst, GATEWAY, POD_MAC)
}

fn packet(src: Addr, dst: Addr, dst_mac: Mac, src_mac: Mac) -> Vec<u8> {
    let mut ip = Ip::new("0.0.0.0", "0.0.0.0", UDP);
    (ip.src, ip.dst) = (src, dst);
    ip.frame(dst_mac, src_mac, &udp(1000, 53, &[0; 64]))
}

/// What the uplink receives from another node.
fn encapsulated(node: u32, flow: u32, inner: &[u8]) -> Vec<u8> {
    let port = u16::try_from(40_000 + flow).unwrap_or(u16::MAX);
    let mut outer = Ip::new("0.0.0.0", "0.0.0.0", UDP);
    (outer.src, outer.dst) = (underlay(node).into(), OWN_UNDERLAY.into());
    let payload = udp(port, DEFAULT_PORT, &vxlan(VXLAN_I, 1, inner));
    outer.frame(UPLINK_MAC, GATEWAY, &payload)
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
