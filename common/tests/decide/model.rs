//! The rules, one after the other.

use oxlan_common::addr::Addr;
use oxlan_common::counters::DropReason::{self, *};
use oxlan_common::maps::{
    COPY_DSCP, MAP_ABI, PodValue, RouteValue, config_flags, pod_flags, route_flags,
};

use crate::bytes::{has_udp_checksum, ip_len, number, told};
use crate::describe::{
    Check, Fragment, Frame, FromPodCase, IpCase, L4, TunnelCase, underlay, underlay_v6,
};
use crate::world::{MTU, OWN_VTEP, Outcome, PORT, World};

pub(crate) fn from_pod(case: &FromPodCase, world: &World) -> Outcome {
    if !is_configured(world) {
        return Outcome::Next;
    }
    if case.is_tagged {
        return Outcome::Dropped(UnsupportedProtocol);
    }
    match &case.frame {
        Frame::Other => Outcome::Dropped(UnsupportedProtocol),
        Frame::Arp {
            operation,
            sender_mac,
            sender,
            target,
        } => {
            if *operation > 2 {
                Outcome::Dropped(Malformed)
            } else if *sender_mac != case.mac {
                Outcome::Dropped(ForeignMac)
            } else if number(*sender) == 0xffff_0000_0000 {
                Outcome::Ignored
            } else if let Some(reason) = wrong_source(case, *sender, world) {
                Outcome::Dropped(reason)
            } else if *operation == 2 {
                Outcome::Host
            } else {
                answer(case, *target, world)
            }
        }
        Frame::Ip(ip) => match defect(ip, case.gso_size) {
            Some(reason) => Outcome::Dropped(reason),
            None => ip_from_pod(case, ip, world),
        },
    }
}

fn ip_from_pod(case: &FromPodCase, ip: &IpCase, world: &World) -> Outcome {
    let has_header = ip.fragment != Fragment::Later;
    let icmp = match ip.l4 {
        L4::Icmp6 { kind, code, target } => has_header.then_some((kind, code, target)),
        L4::Udp { .. } | L4::Tcp { .. } | L4::Icmp4 { .. } | L4::Other => None,
    };
    if let Some((134, _, _)) = icmp {
        return Outcome::Dropped(RouterAdvertisement);
    }
    let is_link_local = !ip.src.is_v4() && number(ip.src) >> 118 == 0xfe80 >> 6;
    let has_no_entry = is_link_local || number(ip.src) == 0;
    if has_no_entry && !matches!(icmp, Some((135, _, _))) {
        return Outcome::Ignored;
    }
    if !has_no_entry && let Some(reason) = wrong_source(case, ip.src, world) {
        return Outcome::Dropped(reason);
    }
    if let Some((135, code, target)) = icmp {
        return solicitation(case, ip, code, target, world);
    }
    if is_group(ip.dst) {
        return Outcome::Ignored;
    }
    let is_last_hop = ip.ttl < 2;
    let is_translated = pod(world, ip.src).is_some_and(|own| is_translated(ip, own, world));
    match pod(world, ip.dst) {
        Some(pod) if pod.flags & pod_flags::HOST == 0 => {
            if is_translated {
                return Outcome::Translated;
            }
            if is_last_hop {
                return Outcome::Host;
            }
            return Outcome::Pod(pod.ifindex);
        }
        _ => {}
    }
    match route(world, ip.dst) {
        Some(route) if route.flags & route_flags::LOCAL == 0 => {
            if is_translated {
                return Outcome::Translated;
            }
            let is_reachable = route.flags & route_flags::UNREACHABLE == 0;
            let is_cut_by_length = matches!(ip.l4, L4::Udp { .. } | L4::Tcp { .. });
            let has_own_lengths = case.gso_size > 0 && !is_cut_by_length;
            if is_last_hop || !is_reachable || has_own_lengths {
                Outcome::Host
            } else {
                sized(case, ip, &route, world)
            }
        }
        _ if is_to_tunnel_port(ip) => Outcome::Dropped(TunnelPort),
        _ => Outcome::Host,
    }
}

/// A packet that may go to another node, if it fits.
fn sized(case: &FromPodCase, ip: &IpCase, route: &RouteValue, world: &World) -> Outcome {
    let (len, mtu) = (segment_len(ip, case.gso_size), usize::from(route.mtu));
    let is_v4 = ip.src.is_v4();
    let (own, told) = if is_v4 {
        (Addr::from_v4([10, 244, 1, 0]), mtu)
    } else {
        let own: std::net::Ipv6Addr = "fd00:1::".parse().unwrap();
        (Addr::from(own), mtu.max(1280))
    };
    // Where the host may have to cut some fragment of a packet, it gets all of them.
    let is_narrow = if is_v4 {
        !ip.df && mtu < usize::from(MTU)
    } else {
        mtu < 1280
    };
    if len <= mtu && ip.fragment != Fragment::Whole && is_narrow {
        Outcome::Host
    } else if len <= mtu && is_direct(route) {
        Outcome::Peer(route.next_hop)
    } else if len <= mtu {
        encapsulated(case, ip, route, world)
    } else if len <= told || is_v4 && !ip.df {
        Outcome::Host
    } else if is_icmp_error(ip) || ip.fragment == Fragment::Later {
        Outcome::Dropped(TooBigUnanswered)
    } else {
        Outcome::TooBig(own, u16::try_from(told).unwrap())
    }
}

fn encapsulated(case: &FromPodCase, ip: &IpCase, route: &RouteValue, world: &World) -> Outcome {
    if !route.underlay.is_v4() && !tells_its_sum(ip, case.gso_size) {
        return Outcome::Host;
    }
    let outer = match world.config.map(|config| config.dscp) {
        Some(dscp) if dscp != COPY_DSCP => dscp << 2 | ip.tos & 3,
        _ => ip.tos,
    };
    Outcome::Vtep(route.underlay, outer)
}

fn solicitation(case: &FromPodCase, ip: &IpCase, code: u8, target: Addr, world: &World) -> Outcome {
    if number(ip.src) == 0 {
        return Outcome::Ignored;
    }
    // Where an answer is due, the solicitation is where it must be: right behind the IPv6 header.
    let is_plain = !ip.src.is_v4() && ip.extensions.is_empty() && ip.fragment == Fragment::Whole;
    if !is_plain || code != 0 || ip.ttl != 255 || is_group(target) {
        return Outcome::Dropped(Malformed);
    }
    answer(case, target, world)
}

/// The gateway answers for itself and for all pods and nodes, but not for the asking pod.
fn answer(case: &FromPodCase, target: Addr, world: &World) -> Outcome {
    let gateways = ["169.254.1.1", "fe80::1"];
    let is_gateway = gateways.contains(&target.to_string().as_str());
    let is_known = match pod(world, target) {
        Some(pod) => pod.ifindex != case.ifindex,
        None => route(world, target).is_some(),
    };
    if is_gateway || is_known {
        Outcome::Answer(target)
    } else {
        Outcome::Ignored
    }
}

pub(crate) fn from_uplink(case: &TunnelCase, world: &World) -> Outcome {
    let is_ours = is_configured(world)
        && [underlay(1), underlay_v6(1)].contains(&case.outer_dst)
        && case.port == PORT
        && !case.is_fragment
        && !case.has_options
        && !case.is_tagged
        && case.is_to_us;
    if !is_ours {
        return Outcome::Next;
    }
    if case.flags != 0x0800_0000 {
        return Outcome::Dropped(WrongVxlanFlags);
    }
    if !case.outer_dst.is_v4() && case.check == Check::None {
        return Outcome::Dropped(NoUdpChecksum);
    }
    let inner = match inner(case, world) {
        Ok(inner) => inner,
        Err(reason) => return Outcome::Dropped(reason),
    };
    let Inner::Pod(ifindex, inner_ecn) = inner else {
        return Outcome::Overlay;
    };
    let is_aggregate = case.gso_size > 0;
    let is_consumed = is_consumed(case, ifindex);
    let is_right = match (case.check, &case.frame) {
        (Check::None, _) => true,
        (Check::Right, Frame::Ip(ip)) => is_aggregate || tells_its_sum(ip, 0),
        (Check::Right | Check::Wrong | Check::Partial, _) => is_aggregate,
    };
    if !is_right || (world.follows && !is_aggregate && !is_consumed) {
        return Outcome::Overlay;
    }
    let mark = match (case.outer_ecn, inner_ecn) {
        (3, 0) => return Outcome::Dropped(CongestionMark),
        (3, 1 | 2) => Some(3),
        (1, 2) => Some(1),
        _ => None,
    };
    match (is_aggregate, is_consumed) {
        (false, _) => Outcome::Decapsulated(ifindex, mark),
        (true, true) => Outcome::Aggregate(ifindex, mark),
        // What is no socket's is not taken out here.
        (true, false) => Outcome::Overlay,
    }
}

/// Only one pod's namespace is known.
fn is_consumed(case: &TunnelCase, ifindex: u32) -> bool {
    let is_tcp = |ip: &IpCase| matches!(ip.l4, L4::Tcp { .. }) && ip.fragment != Fragment::Later;
    let Frame::Ip(ip) = &case.frame else {
        return false;
    };
    case.has_socket && ifindex == 101 && is_tcp(ip)
}

pub(crate) fn from_overlay(case: &TunnelCase, has_key: bool, world: &World) -> Outcome {
    if !is_configured(world) {
        return Outcome::Next;
    }
    if !has_key {
        return Outcome::Dropped(NoTunnelMetadata);
    }
    if case.is_tagged {
        return Outcome::Dropped(InnerNotIp);
    }
    match inner(case, world) {
        Ok(Inner::Pod(ifindex, _)) => Outcome::Pod(ifindex),
        Ok(Inner::Host) => Outcome::Host,
        Ok(Inner::Translator) => Outcome::Translated,
        Err(reason) => Outcome::Dropped(reason),
    }
}

enum Inner {
    Pod(u32, u8),
    Host,
    Translator,
}

fn inner(case: &TunnelCase, world: &World) -> Result<Inner, DropReason> {
    if case.vni != 1 {
        return Err(WrongVni);
    }
    let mut vteps = world.vteps.iter();
    let Some((_, vtep)) = vteps.find(|(addr, _)| *addr == case.outer_src) else {
        return Err(UnknownVtep);
    };
    let sender = [case.outer_src, vtep.other];
    if case.inner_dst != OWN_VTEP {
        return Err(WrongInnerMac);
    }
    let Frame::Ip(ip) = &case.frame else {
        return Err(InnerNotIp);
    };
    if let Some(reason) = defect(ip, case.gso_size) {
        return Err(reason);
    }
    let is_its_pod = route(world, ip.src).is_some_and(|route| {
        sender.contains(&route.underlay) && route.flags & route_flags::LOCAL == 0
    });
    if !sender.contains(&ip.src) && !is_its_pod {
        return Err(ForeignInnerSource);
    }
    match pod(world, ip.dst) {
        Some(pod) if pod.flags & pod_flags::HOST != 0 => {
            if is_to_tunnel_port(ip) {
                Err(TunnelPort)
            } else {
                Ok(Inner::Host)
            }
        }
        Some(pod) if is_translated(ip, pod, world) => Ok(Inner::Translator),
        Some(_) if ip.ttl < 2 => Ok(Inner::Host),
        Some(pod) => Ok(Inner::Pod(pod.ifindex, ip.tos & 3)),
        None => match route(world, ip.dst) {
            Some(route) if route.flags & route_flags::LOCAL != 0 => Ok(Inner::Host),
            _ => Err(NotOurPod),
        },
    }
}

pub(crate) fn to_overlay(case: &FromPodCase, world: &World) -> Outcome {
    if !is_configured(world) {
        return Outcome::Next;
    }
    let Frame::Ip(ip) = &case.frame else {
        return Outcome::Ignored;
    };
    if is_group(ip.dst) {
        return Outcome::Ignored;
    }
    match route(world, ip.dst) {
        Some(route) if route.flags & route_flags::LOCAL != 0 => Outcome::Dropped(NoRoute),
        Some(route) if !is_direct(&route) => Outcome::Vtep(route.underlay, 0),
        Some(route) if route.flags & route_flags::UNREACHABLE == 0 => Outcome::Peer(route.next_hop),
        _ => Outcome::Dropped(NoRoute),
    }
}

/// The inner frame of the case, as it comes when nobody encapsulates it.
pub(crate) fn from_peer(case: &TunnelCase, world: &World) -> Outcome {
    let takes_plain = world
        .config
        .is_some_and(|config| config.abi == MAP_ABI && config.flags == config_flags::DIRECT);
    let Frame::Ip(ip) = &case.frame else {
        return Outcome::Next;
    };
    let is_fit = !case.is_tagged && case.is_to_us && defect(ip, case.gso_size).is_none();
    if !takes_plain || !is_fit {
        return Outcome::Next;
    }
    let pod = pod(world, ip.dst).filter(|pod| pod.flags & pod_flags::HOST == 0);
    let sender = route(world, ip.src).filter(|route| route.flags & route_flags::LOCAL == 0);
    let (Some(pod), Some(sender)) = (pod, sender) else {
        return Outcome::Next;
    };
    if is_translated(ip, pod, world) {
        Outcome::Translated
    } else if !is_direct(&sender) || ip.ttl < 2 {
        Outcome::Host
    } else if sender.ifindex != case.ifindex {
        Outcome::Next
    } else {
        Outcome::Received(pod.ifindex)
    }
}

fn is_direct(route: &RouteValue) -> bool {
    route.flags & route_flags::DIRECT != 0
}

/// All fragments of a pod that has ever had a translated flow go the way of such flows.
fn is_translated(ip: &IpCase, pod: PodValue, world: &World) -> bool {
    let is_marked = pod.flags & pod_flags::TRANSLATED != 0;
    is_marked && (ip.fragment != Fragment::Whole || world.translates && !quotes_too_little(ip))
}

fn is_icmp_error(ip: &IpCase) -> bool {
    match ip.l4 {
        L4::Icmp4 { kind } => [3, 4, 5, 11, 12].contains(&kind),
        L4::Icmp6 { kind, .. } => kind < 128,
        L4::Udp { .. } | L4::Tcp { .. } | L4::Other => false,
    }
}

/// Whether this is an ICMP error without the addresses of the packet that it is about.
fn quotes_too_little(ip: &IpCase) -> bool {
    // The description's target is the start of what an ICMPv6 error quotes.
    let (quoted, needed) = match ip.l4 {
        L4::Icmp6 { .. } => (16 + ip.payload, 40),
        L4::Icmp4 { .. } | L4::Udp { .. } | L4::Tcp { .. } | L4::Other => (ip.payload, 20),
    };
    is_icmp_error(ip) && quoted < needed
}

fn is_configured(world: &World) -> bool {
    world.config.is_some_and(|config| config.abi == MAP_ABI)
}

fn pod(world: &World, addr: Addr) -> Option<PodValue> {
    let mut pods = world.pods.iter();
    pods.find(|(have, _)| *have == addr).map(|(_, pod)| *pod)
}

/// The longest of all prefixes that cover the address.
fn route(world: &World, addr: Addr) -> Option<RouteValue> {
    let covers = |prefix: Addr, len: u32| (number(prefix) ^ number(addr)) >> (128 - len) == 0;
    let covering = world
        .routes
        .iter()
        .filter(|(key, _)| covers(key.prefix, key.prefix_len));
    covering
        .max_by_key(|(key, _)| key.prefix_len)
        .map(|(_, route)| *route)
}

fn wrong_source(case: &FromPodCase, src: Addr, world: &World) -> Option<DropReason> {
    match pod(world, src) {
        Some(pod) if pod.flags & pod_flags::HOST == 0 && pod.ifindex == case.ifindex => {
            (pod.mac != case.mac).then_some(ForeignMac)
        }
        _ => Some(ForeignSource),
    }
}

fn is_group(addr: Addr) -> bool {
    match std::net::IpAddr::from(addr) {
        std::net::IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        std::net::IpAddr::V6(v6) => v6.is_multicast(),
    }
}

fn is_to_tunnel_port(ip: &IpCase) -> bool {
    ip.fragment != Fragment::Later && ip.l4 == L4::Udp { dst_port: PORT }
}

/// Whether headers alone tell the sum over the packet.
fn tells_its_sum(ip: &IpCase, gso_size: u32) -> bool {
    let is_whole = ip.fragment == Fragment::Whole && ip.lie == 0 && gso_size == 0;
    let is_plain = if ip.src.is_v4() {
        ip.options == 0
    } else {
        ip.extensions.is_empty()
    };
    let has_checksum = match ip.l4 {
        L4::Udp { .. } => has_udp_checksum(ip),
        L4::Tcp { .. } => true,
        L4::Icmp6 { .. } => !ip.src.is_v4(),
        L4::Icmp4 { .. } => ip.src.is_v4(),
        L4::Other => false,
    };
    is_whole && is_plain && has_checksum
}

/// What is wrong with the IP packet itself.
fn defect(ip: &IpCase, gso_size: u32) -> Option<DropReason> {
    let is_v4 = ip.src.is_v4();
    let header = if is_v4 {
        20 + 4 * usize::from(ip.options)
    } else {
        0
    };
    let measured = if is_v4 { ip_len(ip) } else { ip_len(ip) - 40 };
    let told = usize::from(told(ip, measured));
    if gso_size == 0 && told < header {
        return Some(Malformed);
    }
    if gso_size == 0 && told > measured {
        return Some(Truncated);
    }
    let fragment_headers = usize::from(ip.fragment != Fragment::Whole);
    if !is_v4 && ip.extensions.len() + fragment_headers > 6 {
        // Behind a later fragment's header nothing is looked for.
        let is_found = ip.fragment == Fragment::Later && ip.extensions.len() == 6;
        if !is_found || ip.extensions.len() > 5 {
            return Some(Malformed);
        }
    }
    let is_first = matches!(ip.fragment, Fragment::First | Fragment::Tiny);
    let extensions = if is_v4 {
        0
    } else {
        16 * ip.extensions.len() + 8 * fragment_headers
    };
    let has_ports = !matches!(ip.l4, L4::Other | L4::Icmp4 { .. });
    if is_first && has_ports && told < header + extensions + 8 {
        return Some(Malformed);
    }
    None
}

/// Length of the IP packets that leave for the wire.
fn segment_len(ip: &IpCase, gso_size: u32) -> usize {
    if gso_size == 0 {
        return ip_len(ip);
    }
    let fragment_header = if ip.fragment == Fragment::Whole { 0 } else { 8 };
    let ip_header = if ip.src.is_v4() {
        20 + 4 * usize::from(ip.options)
    } else {
        40 + 16 * ip.extensions.len() + fragment_header
    };
    let l4_header = match ip.l4 {
        // A header that is not there counts as the smallest.
        L4::Tcp { .. } if ip.fragment == Fragment::Tiny => 20,
        L4::Tcp { header_words } => 4 * usize::from(header_words),
        L4::Udp { .. } | L4::Icmp4 { .. } | L4::Icmp6 { .. } | L4::Other => 8,
    };
    ip_header + l4_header + usize::try_from(gso_size).unwrap()
}
