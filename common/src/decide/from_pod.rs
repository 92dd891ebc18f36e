//! What a pod sends.

use super::{
    HostTask, Tables, configured, flow, has_ended, is_direct, is_group, is_host, is_link_local_v6,
    is_local, is_reachable, is_to_tunnel_port, neighbour, own_entry, route,
};
use crate::addr::Addr;
use crate::counters::DropReason;
use crate::maps::{Config, PodValue, RouteValue};
use crate::packet::arp::Arp;
use crate::packet::icmp::{self, TooBig};
use crate::packet::inner_sum::inner_sum;
use crate::packet::ip::Ip;
use crate::packet::nd;
use crate::packet::{ETHERTYPE_ARP, Front, Packet, TCP, UDP};
use crate::wire::MIN_MTU_V6;

/// Largest IP packet whose length fits its 16 bits, whatever the family.
const MAX_IP_LEN: u32 = 0xffff;

/// What happens to a packet from a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FromPod<'t> {
    /// Nothing is configured yet: whoever comes next may have it.
    Unconfigured,
    /// To a pod of this node.
    Deliver {
        /// The pod.
        pod: &'t PodValue,
        /// The sender opens a connection by itself, so what `FLOWS` says of these ports is of the past.
        opens: bool,
    },
    /// To another node; to the host's stack, if [`outer_sum`] does not tell.
    Encapsulate {
        /// The way there.
        route: &'t RouteValue,
        /// Who we are.
        config: &'t Config,
        /// As above.
        opens: bool,
    },
    /// To another node, without encapsulation.
    Route {
        /// The way there.
        route: &'t RouteValue,
        /// As above.
        opens: bool,
    },
    /// To the host's own stack.
    ToHost(HostTask),
    /// Answer this ARP request.
    ArpReply(Arp),
    /// Answer the neighbour solicitation for this address.
    NdReply(Addr),
    /// It is too large for the way to another node: tell the pod.
    TooBig(TooBig),
    /// It is of no use beyond the link.
    Ignore,
    /// Not allowed, or broken.
    Drop(DropReason),
}

/// Decides about a packet that came in by the host side of a pod's veth.
#[inline(always)]
pub fn from_pod<'t, T: Tables>(packet: &impl Packet, front: &Front, tables: &'t T) -> FromPod<'t> {
    let Some(config) = configured(tables) else {
        return FromPod::Unconfigured;
    };
    if packet.is_tagged() {
        return FromPod::Drop(DropReason::UnsupportedProtocol);
    }
    if front.ethertype == ETHERTYPE_ARP {
        return neighbour::arp(packet, front, tables, config);
    }
    match Ip::parse(packet, front, 0, DropReason::UnsupportedProtocol) {
        Ok(ip) => ip_packet(packet, front, &ip, tables, config),
        Err(reason) => FromPod::Drop(reason),
    }
}

#[inline(always)]
fn ip_packet<'t, T: Tables>(
    packet: &impl Packet,
    front: &Front,
    ip: &Ip,
    tables: &'t T,
    config: &'t Config,
) -> FromPod<'t> {
    let icmp_type = ip.icmpv6_type(packet);
    if icmp_type == Some(nd::ROUTER_ADVERTISEMENT) {
        return FromPod::Drop(DropReason::RouterAdvertisement);
    }
    let is_solicitation = icmp_type == Some(nd::NEIGHBOUR_SOLICITATION);
    if front.is_v6() && (is_link_local_v6(&ip.src) || ip.src.is_unspecified()) {
        // There is no entry to check such a source against, and no way off the link for it.
        return if is_solicitation {
            neighbour::solicitation(packet, front, ip, tables, config)
        } else {
            FromPod::Ignore
        };
    }
    let own = match own_entry(tables, packet, &ip.src, front.src) {
        Ok(own) => own,
        Err(reason) => return FromPod::Drop(reason),
    };
    if is_solicitation {
        return neighbour::solicitation(packet, front, ip, tables, config);
    }
    if is_group(&ip.dst) {
        return FromPod::Ignore;
    }
    forward(packet, front, ip, own, tables, config)
}

/// A packet whose source is right.
#[inline(always)]
fn forward<'t, T: Tables>(
    packet: &impl Packet,
    front: &Front,
    ip: &Ip,
    own: &PodValue,
    tables: &'t T,
    config: &'t Config,
) -> FromPod<'t> {
    let pod = tables.pod(&ip.dst).filter(|pod| !is_host(pod));
    let far = match pod {
        Some(_) => None,
        None => route(tables, config, &ip.dst).filter(|route| !is_local(route)),
    };
    if (pod.is_some() || far.is_some()) && flow::is_translated(packet, ip, own, tables) {
        return FromPod::ToHost(HostTask::Translate);
    }
    let opens = flow::opens(packet, ip, own);
    match (pod, far) {
        (Some(_), _) if has_ended(ip) => FromPod::ToHost(HostTask::Help),
        (Some(pod), _) => FromPod::Deliver { pod, opens },
        (None, Some(route)) if needs_the_host(packet, ip, route) => FromPod::ToHost(HostTask::Help),
        (None, Some(route)) => match too_large(packet, front, ip, route, config) {
            Some(verdict) => verdict,
            None if is_direct(route) => FromPod::Route { route, opens },
            None => FromPod::Encapsulate {
                route,
                config,
                opens,
            },
        },
        (None, None) if is_to_tunnel_port(packet, ip, config) => {
            FromPod::Drop(DropReason::TunnelPort)
        }
        (None, None) => FromPod::ToHost(HostTask::Route),
    }
}

/// The host's stack routes this packet to the overlay device or answers with the right ICMP error.
#[inline(always)]
fn needs_the_host(packet: &impl Packet, ip: &Ip, route: &RouteValue) -> bool {
    let outer_len = packet.len() - ip.l3 + u32::from(crate::wire::OVERHEAD_V6);
    // The segments of an SCTP aggregate have lengths of their own (`GSO_BY_FRAGS`), which only the kernel sees.
    let has_own_lengths = packet.gso_size() != 0 && !matches!(ip.protocol, TCP | UDP);
    has_ended(ip)
        || has_own_lengths
        || !is_reachable(route)
        || !is_direct(route) && outer_len > MAX_IP_LEN
}

/// What happens to a packet that does not fit towards its destination; none if it fits.
///
/// The host's stack fragments IPv4, and around IPv6 what leaves the overlay device: an IPv6 link carries
/// 1280 bytes, whatever is below it (RFC 8200, section 5).
#[inline(always)]
fn too_large<'t>(
    packet: &impl Packet,
    front: &Front,
    ip: &Ip,
    route: &RouteValue,
    config: &Config,
) -> Option<FromPod<'t>> {
    let len = ip.wire_len(packet);
    let is_v6 = front.is_v6();
    if len <= u32::from(route.mtu) {
        let needed = if is_v6 { MIN_MTU_V6 } else { config.mtu };
        let may_be_cut = is_v6 || ip.may_be_fragmented(front);
        // The host's stack puts fragments together before it looks at them, so it needs all of them.
        let has_others = ip.is_fragment && may_be_cut && route.mtu < needed;
        return has_others.then_some(FromPod::ToHost(HostTask::Help));
    }
    let (mtu, source) = if is_v6 && route.mtu < MIN_MTU_V6 {
        (MIN_MTU_V6, config.overlay_v6)
    } else if is_v6 {
        (route.mtu, config.overlay_v6)
    } else {
        (route.mtu, config.overlay_v4)
    };
    Some(if len <= u32::from(mtu) || ip.may_be_fragmented(front) {
        FromPod::ToHost(HostTask::Help)
    } else if ip.is_later_fragment || icmp::is_error(packet, ip) {
        // RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e). Groups have been seen to before.
        FromPod::Drop(DropReason::TooBigUnanswered)
    } else {
        FromPod::TooBig(TooBig { source, mtu })
    })
}

/// What the outer UDP checksum needs to know of a packet that is to be encapsulated: nothing over
/// IPv4, which has none.
///
/// None over IPv6 where only a look at the whole packet would tell, which the host's stack takes; an
/// aggregate gets a checksum for each of its segments there. One flow may go both ways, for neither queues.
#[inline(always)]
pub fn outer_sum(packet: &impl Packet, front: &Front, route: &RouteValue) -> Option<u32> {
    if route.underlay.is_v4() {
        Some(0)
    } else {
        inner_sum(packet, front, 0)
    }
}
