//! Carries out decisions. Each action counts what it did and returns what the program returns.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use bytemuck::Zeroable as _;
use oxlan_common::addr::{Addr, Mac};
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::decide::{self, Decapsulation, HostTask, Tables as _};
use oxlan_common::maps::{Config, FlowKey, PodValue, RouteValue};
use oxlan_common::packet::arp::Arp;
use oxlan_common::packet::encap::{Carried, Encapsulation, Tunnel};
use oxlan_common::packet::icmp::{
    HEADERS_V4, HEADERS_V6, QUOTE_V4, QUOTE_V6, SHORT_QUOTE_V4, TooBig,
};
use oxlan_common::packet::{ETHERNET_LEN, Front, Packet as _, nd};
use oxlan_common::wire::GATEWAY_MAC;

use crate::skb::{Mark, Refused, Skb};
use crate::tables::{self, Maps, count, count_drop, mark_aside, may_answer, packets};
use crate::tunnel_key;

/// The next program of the hook, or the kernel, goes on with the packet: `TCX_NEXT`, and for clsact "no match".
pub(crate) const PASS: i32 = TC_ACT_UNSPEC;

/// Bytes of a frame that forwarding changes: Ethernet header, and IP header with IPv4's checksum.
const FORWARDED: usize = 14 + 12;

/// Bytes in which an IPv4 header ends, whatever its options, and the Ethernet header's length more.
const HEAD_V4: usize = 60 + 14 + 2;

/// The same with up to eight bytes of options: what is left of the shortest quote must be an IPv4 header.
const SHORT_HEAD_V4: usize = 28 + 14 + 2;

/// The same for an IPv6 header with 32 bytes of extension headers.
const HEAD_V6: usize = 40 + 32 + 14 + 2;

/// `AF_INET` and `AF_INET6` (include/linux/socket.h).
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[inline(always)]
pub(crate) fn pass(skb: &Skb, verdict: Verdict) -> i32 {
    count(verdict, skb.len());
    PASS
}

/// Gives the packet to the host's own stack.
#[inline(always)]
pub(crate) fn to_host(skb: &mut Skb, task: HostTask) -> i32 {
    skb.take();
    skb.set_lent(!matches!(task, HostTask::Route));
    let verdict = match task {
        HostTask::Route | HostTask::Help => Verdict::ToHost,
        HostTask::Translate => Verdict::Translated,
    };
    pass(skb, verdict)
}

/// Notes that the host translates the flow of this packet.
#[inline(always)]
pub(crate) fn remember_flow(skb: &Skb, front: &Front) {
    let mut flow = FlowKey::zeroed();
    if decide::answers(skb, front, &mut flow) {
        tables::remember(&flow, skb.ifindex());
    }
}

/// Forgets that the host has translated a flow with the ports of the connection that this packet opens.
#[inline(always)]
pub(crate) fn forget_former_flow(skb: &Skb, front: &Front) {
    let mut flow = FlowKey::zeroed();
    if decide::answers(skb, front, &mut flow) {
        tables::forget(&flow);
    }
}

/// The same for a connection that somebody on another node opens to a pod; the inner frame starts at `offset`.
#[inline(always)]
pub(crate) fn end_former_flow(skb: &Skb, front: &Front, offset: u32, pod: &PodValue) {
    let mut flow = FlowKey::zeroed();
    if decide::ends_former_flow(skb, front, offset, pod, &mut flow) {
        tables::forget(&flow);
    }
}

#[inline(always)]
pub(crate) fn drop(skb: &Skb, reason: DropReason) -> i32 {
    count_drop(reason, skb.len());
    TC_ACT_SHOT
}

#[inline(always)]
pub(crate) fn ignore(skb: &Skb) -> i32 {
    count(Verdict::Ignored, skb.len());
    TC_ACT_SHOT
}

/// Gives a packet that has no tunnel headers to a pod of this node.
#[inline(always)]
pub(crate) fn deliver(skb: &mut Skb, front: &mut Front, pod: &PodValue, verdict: Verdict) -> i32 {
    let len = skb.len();
    skb.take();
    match readdress(skb, front, pod, None) {
        Ok(()) => {
            count(verdict, len);
            to_device(skb, pod)
        }
        Err(Refused) => drop(skb, DropReason::HelperFailed),
    }
}

/// Takes the tunnel headers off and gives the packet to a pod of this node.
#[inline(always)]
pub(crate) fn decapsulate(
    skb: &mut Skb,
    front: &mut Front,
    pod: &PodValue,
    ecn: Option<u8>,
    outer: Decapsulation,
) -> i32 {
    let len = skb.len();
    if skb
        .shrink_from_tunnel(outer, front.is_v6(), Mark::None)
        .is_err()
    {
        // Nothing has changed, so the overlay device can do it.
        return pass(skb, Verdict::ToOverlay);
    }
    deliver_decapsulated(skb, front, pod, ecn, len)
}

/// The same for an aggregate, whose mark is taken off if the kernel can; it does not matter to a socket.
#[inline(always)]
pub(crate) fn decapsulate_aggregate(
    skb: &mut Skb,
    front: &mut Front,
    pod: &PodValue,
    (ecn, outer): (Option<u8>, Decapsulation),
    bucket: u32,
) -> i32 {
    let len = skb.len();
    let is_v6 = front.is_v6();
    let is_stripped = skb.shrink_from_tunnel(outer, is_v6, Mark::Remove).is_ok()
        || skb.shrink_from_tunnel(outer, is_v6, Mark::Keep).is_ok();
    if !is_stripped {
        mark_aside(bucket);
        return pass(skb, Verdict::ToOverlay);
    }
    deliver_decapsulated(skb, front, pod, ecn, len)
}

/// Gives a packet that was `len` bytes long before its tunnel headers went to a pod of this node.
#[inline(always)]
fn deliver_decapsulated(
    skb: &mut Skb,
    front: &mut Front,
    pod: &PodValue,
    ecn: Option<u8>,
    len: u32,
) -> i32 {
    match readdress(skb, front, pod, ecn) {
        Ok(()) => {
            count(Verdict::FromVtep, len);
            to_device(skb, pod)
        }
        Err(Refused) => drop(skb, DropReason::HelperFailed),
    }
}

/// Puts tunnel headers in front and sends the packet to the next hop towards its VTEP.
#[inline(always)]
pub(crate) fn encapsulate(
    skb: &mut Skb,
    front: &mut Front,
    route: &RouteValue,
    config: &Config,
) -> i32 {
    let len = skb.len();
    let over_ipv6 = !route.underlay.is_v4();
    let hash = skb.flow_hash(front, over_ipv6);
    let Some(sum) = decide::outer_sum(skb, front, route) else {
        if let Some(bucket) = decide::send_bucket(route, hash) {
            mark_aside(bucket);
        }
        return to_host(skb, HostTask::Help);
    };
    if decide::send_bucket(route, hash).is_some_and(|bucket| Maps.follows_aggregate(bucket)) {
        return to_host(skb, HostTask::Help);
    }
    let tunnel = Tunnel {
        src: *config.underlay_like(&route.underlay),
        dst: route.underlay,
        port: config.port,
        vni: route.vni,
        dst_mac: route.mac,
        src_mac: config.vtep_mac,
    };
    if skb.grow_for_tunnel(over_ipv6).is_err() {
        // Nothing has changed, so the host's stack can route it to the overlay device.
        return to_host(skb, HostTask::Help);
    }
    let difference = front.decrement_hop_limit();
    let carried = Carried {
        frame_len: len,
        traffic_class: config.outer_traffic_class(front.traffic_class()),
        hash,
        id: identification(hash),
        sum: sum + difference,
    };
    let headers = Encapsulation::new(&tunnel, front, &carried);
    if skb.write(ETHERNET_LEN, headers.bytes()).is_err() {
        return drop(skb, DropReason::HelperFailed);
    }
    skb.adjust_sum(difference);
    count(Verdict::ToVtep, len);
    to_next_hop(route, hash)
}

/// Sends the packet as it is to the next hop towards another node.
#[inline(always)]
pub(crate) fn route(skb: &mut Skb, front: &mut Front, route: &RouteValue) -> i32 {
    let difference = front.decrement_hop_limit();
    if skb.write(0, front.frame::<FORWARDED>()).is_err() {
        return drop(skb, DropReason::HelperFailed);
    }
    skb.adjust_sum(difference);
    send_on(skb, front, route)
}

/// The same for a packet that the host's stack has routed already.
#[inline(always)]
pub(crate) fn send_on(skb: &Skb, front: &Front, route: &RouteValue) -> i32 {
    count(Verdict::ToPeer, skb.len());
    let hash = if route.hops == 0 {
        0
    } else {
        skb.flow_hash(front, false)
    };
    to_next_hop(route, hash)
}

/// Lets the overlay device encapsulate a packet of the host's to a VTEP.
#[inline(always)]
pub(crate) fn hand_to_vtep(
    skb: &mut Skb,
    front: &mut Front,
    route: &RouteValue,
    config: &Config,
) -> i32 {
    front.readdress(route.mac, config.vtep_mac);
    let written = skb.write(0, front.frame::<12>());
    if written.is_err() || tunnel_key::set(skb, route, config, front).is_err() {
        return drop(skb, DropReason::HelperFailed);
    }
    pass(skb, Verdict::ToVtep)
}

#[inline(always)]
pub(crate) fn arp_reply(skb: &mut Skb, front: &Front, arp: &Arp) -> i32 {
    let reply = arp.reply(front, Mac::new(GATEWAY_MAC));
    send_back(skb, &reply, Verdict::ArpReply)
}

#[inline(always)]
pub(crate) fn nd_reply(skb: &mut Skb, front: &Front, target: &Addr) -> i32 {
    let reply = nd::advertisement(front, target, Mac::new(GATEWAY_MAC));
    send_back(skb, &reply, Verdict::NdReply)
}

/// Tells the sender that its packet is too large: an ICMP error that quotes the packet's start.
#[inline(always)]
pub(crate) fn too_big(skb: &mut Skb, front: &Front, answer: &TooBig) -> i32 {
    if !may_answer(skb.ifindex()) {
        return drop(skb, DropReason::TooBigLimited);
    }
    let len = skb.len();
    let quote = if front.is_v6() {
        QUOTE_V6
    } else {
        answer.quote_v4()
    };
    if skb.resize(ETHERNET_LEN + u32::from(quote)).is_err() {
        // A tunnel of the pod's own, which the kernel does not shorten. Nothing has changed, so the host answers.
        return to_host(skb, HostTask::Help);
    }
    let written = if front.is_v6() {
        too_big_v6(skb, front, answer)
    } else if answer.quote_v4() == QUOTE_V4 {
        too_big_v4::<QUOTE_V4, HEAD_V4>(skb, front, answer)
    } else {
        too_big_v4::<SHORT_QUOTE_V4, SHORT_HEAD_V4>(skb, front, answer)
    };
    if written.is_err() {
        return drop(skb, DropReason::HelperFailed);
    }
    count(Verdict::TooBig, len);
    // SAFETY: the helper takes two numbers and has no preconditions.
    unsafe { bpf_redirect(skb.ifindex(), 0) as i32 }
}

#[inline(always)]
fn too_big_v4<const QUOTE: u16, const HEAD: usize>(
    skb: &mut Skb,
    front: &Front,
    answer: &TooBig,
) -> Result<(), Refused> {
    let sum = skb.sum_behind_ethernet(QUOTE)?;
    skb.grow_for_error::<HEAD>(HEADERS_V4)?;
    skb.write(
        0,
        &answer.headers_v4(front, Mac::new(GATEWAY_MAC), QUOTE, sum),
    )
}

#[inline(always)]
fn too_big_v6(skb: &mut Skb, front: &Front, answer: &TooBig) -> Result<(), Refused> {
    let sum = skb.sum_behind_ethernet(QUOTE_V6)?;
    skb.grow_for_error::<HEAD_V6>(HEADERS_V6)?;
    skb.write(0, &answer.headers_v6(front, Mac::new(GATEWAY_MAC), sum))
}

/// Turns the packet into `reply` and sends it out by the device that it came from.
#[inline(always)]
fn send_back(skb: &mut Skb, reply: &[u8], verdict: Verdict) -> i32 {
    let len = skb.len();
    if skb.resize(reply.len() as u32).is_err() || skb.write(0, reply).is_err() {
        return drop(skb, DropReason::HelperFailed);
    }
    count(verdict, len);
    // It passes `to_pod`, and no host has translated it.
    skb.set_lent(true);
    // SAFETY: the helper takes two numbers and has no preconditions.
    unsafe { bpf_redirect(skb.ifindex(), 0) as i32 }
}

/// Writes the headers of a packet that is routed to a pod.
#[inline(always)]
fn readdress(
    skb: &mut Skb,
    front: &mut Front,
    pod: &PodValue,
    ecn: Option<u8>,
) -> Result<(), Refused> {
    front.readdress(pod.mac, pod.host_mac);
    let mut difference = front.decrement_hop_limit();
    if let Some(ecn) = ecn {
        difference += front.set_ecn(ecn);
    }
    skb.write(0, front.frame::<FORWARDED>())?;
    skb.adjust_sum(difference);
    Ok(())
}

/// Into the pod, past the host side of its pair; or out of the host side, if its queueing discipline limits
/// what the pod receives.
#[inline(always)]
fn to_device(skb: &mut Skb, pod: &PodValue) -> i32 {
    if decide::is_limited(pod) {
        // It passes `to_pod`, and no host has translated it.
        skb.set_lent(true);
        // SAFETY: the helper takes two numbers and has no preconditions.
        return unsafe { bpf_redirect(pod.ifindex, 0) as i32 };
    }
    // SAFETY: the helper takes two numbers and has no preconditions.
    unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 }
}

/// Sends a packet whose flow has this hash to the flow's next hop.
#[inline(always)]
fn to_next_hop(route: &RouteValue, hash: u32) -> i32 {
    let (ifindex, address) = decide::next_hop(&Maps, route, hash);
    to_neighbour(ifindex, address)
}

/// Sends by the kernel's neighbour entry for the next hop, which this keeps alive.
#[inline(always)]
fn to_neighbour(ifindex: u32, next_hop: &Addr) -> i32 {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if next_hop.is_v4() {
        neighbour.nh_family = AF_INET;
        neighbour.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(next_hop.low_bytes());
    } else {
        neighbour.nh_family = AF_INET6;
        neighbour.__bindgen_anon_1.ipv6_nh = bytemuck::cast(*next_hop);
    }
    // SAFETY: the pointer and the size are those of a structure that lives during the call.
    unsafe {
        bpf_redirect_neigh(
            ifindex,
            &raw mut neighbour,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        ) as i32
    }
}

/// Identification of an outer packet, in case the underlay fragments it: the next one of this CPU,
/// scattered by flow so that CPUs do not walk in step. The kernel's random numbers would cost 50 ns.
#[inline(always)]
fn identification(hash: u32) -> u16 {
    (packets(Verdict::ToVtep) as u16) ^ (hash >> 16) as u16 ^ hash as u16
}
