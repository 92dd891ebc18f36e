//! What should be, from the cluster, the node and its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::Zeroable;
use ipnet::IpNet;
use oxlan_common::addr::{Addr, Mac, V4_PREFIX_BITS};
use oxlan_common::maps::{
    COPY_DSCP, Config, MAP_ABI, MAX_PREFIX_LENGTHS, MAX_XDP_UPLINKS, PodValue, RouteKey,
    RouteValue, UNKNOWN_NETNS, VtepValue, XdpUplink, config_flags, pod_flags, route_flags,
};
use oxlan_common::wire::{MIN_MTU_V6, OVERHEAD_V4, OVERHEAD_V6};

use super::filters::Filter;
use super::hops::Sets;
use super::host::{Desired as Host, Overlay, PodDevice, Via};
use super::tables::Desired as Tables;
use super::ways::{Way, Ways};
use crate::cluster::{ClusterConfig, Dscp, Mode, NodeSpec};
use crate::datapath::Program;
use crate::pods::{DesiredPod, POD_PROGRAMS};

mod sysctls;

/// Name of the overlay device.
pub const OVERLAY: &str = "oxlan0";

/// Metric of the route that makes unknown addresses of the own prefix unreachable: anybody else's
/// route for the prefix is preferred, and pods have routes of their own.
pub const UNREACHABLE_METRIC: u32 = 4096;

/// The node as it is now.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The cluster.
    pub cluster: &'a ClusterConfig,
    /// The own node in it.
    pub own: &'a NodeSpec,
    /// The devices on the underlay; none while they are gone.
    pub uplinks: Vec<Uplink<'a>>,
    /// What the kernel's routes say about the other nodes.
    pub ways: &'a Ways,
    /// MTU of the pods, bytes.
    pub mtu: u16,
    /// MTU of the overlay device, bytes.
    pub tunnel_mtu: u16,
    /// So many different sets of next hops may be there.
    pub max_hop_sets: u32,
    /// The complete pods.
    pub pods: &'a [DesiredPod],
}

/// A device on the underlay.
#[derive(Debug, Clone, Copy)]
pub struct Uplink<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its interface index.
    pub ifindex: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Whether its packets have an Ethernet header.
    pub ethernet: bool,
    /// Whether XDP should run on it.
    pub xdp: bool,
    /// Whether it configured itself by router advertisements before the agent came.
    pub accepts_ra: bool,
}

/// MTU of the pods for an uplink's: all of it where nothing is ever encapsulated, else what is left
/// when VXLAN has been put around.
#[must_use]
pub fn pod_mtu(uplink_mtu: u32, own: &NodeSpec, mode: Mode) -> u16 {
    match mode {
        Mode::Direct => u16::try_from(uplink_mtu).unwrap_or(u16::MAX),
        Mode::Vxlan | Mode::Auto => tunnel_mtu(uplink_mtu, own),
    }
}

/// What VXLAN leaves of an uplink's MTU, and for IPv6 pods not less than IPv6 needs: the kernel takes
/// the addresses away from a device with less. What is around their packets is fragmented then.
///
/// A node with an IPv6 underlay address counts on its larger headers, whoever its peers are: so
/// the MTU does not change when nodes come and go.
#[must_use]
pub fn tunnel_mtu(uplink_mtu: u32, own: &NodeSpec) -> u16 {
    let overhead = if own.underlay().any(|a| a.is_ipv6()) {
        OVERHEAD_V6
    } else {
        OVERHEAD_V4
    };
    let has_v6 = own.pod_cidrs.iter().any(|c| matches!(c, IpNet::V6(_)));
    u16::try_from(uplink_mtu)
        .unwrap_or(u16::MAX)
        .saturating_sub(overhead)
        .max(if has_v6 { MIN_MTU_V6 } else { 0 })
}

/// What should be on the host.
#[must_use]
pub fn host(facts: &Facts<'_>) -> Host {
    let own = facts.own;
    Host {
        overlay: Overlay {
            name: OVERLAY.into(),
            port: facts.cluster.network.port,
            mac: own.vtep_mac(),
            mtu: facts.tunnel_mtu.into(),
        },
        pods: facts.pods.iter().map(pod_device).collect(),
        addresses: own
            .pod_cidrs
            .iter()
            .map(|c| IpNet::from(c.network()))
            .collect(),
        routes: routes(facts),
        neighbours: neighbours(facts.pods),
        sysctls: sysctls::all(facts),
    }
}

fn pod_device(pod: &DesiredPod) -> (String, PodDevice) {
    let device = PodDevice {
        ifindex: pod.host_ifindex,
        mac: pod.host_mac,
        mtu: pod.mtu.into(),
        limit: pod.limit,
    };
    (pod.host_ifname.clone(), device)
}

fn routes(facts: &Facts<'_>) -> BTreeMap<(IpNet, u32), Via> {
    let own = facts.own;
    let local = own
        .pod_cidrs
        .iter()
        .map(|c| ((*c, UNREACHABLE_METRIC), Via::Unreachable));
    let pods = facts.pods.iter().flat_map(|pod| {
        let route = |a: &IpAddr| ((IpNet::from(*a), 0), onto(&pod.host_ifname, own, *a));
        pod.addresses.iter().map(route).collect::<Vec<_>>()
    });
    let others = networks(facts).chain(adjacent(facts)).chain(narrow(facts));
    let all = others.chain(local);
    all.chain(pods).collect()
}

/// One route for each prefix of the whole cluster, so that nodes come and go in the maps alone.
/// Where nothing is encapsulated, it only keeps what has no better route from leaving the cluster.
fn networks<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = ((IpNet, u32), Via)> + 'a {
    let own = facts.own;
    let networks = facts.cluster.network.pod_cidrs.iter();
    // A family in which the node has no pods needs no route: nobody here could use it.
    let used = networks.filter(|n| overlay_address(own, n.network()).is_some());
    used.map(|n| match facts.cluster.network.mode {
        Mode::Vxlan | Mode::Auto => ((*n, 0), onto(OVERLAY, own, n.network())),
        Mode::Direct => ((*n, UNREACHABLE_METRIC), Via::Unreachable),
    })
}

/// Routes for the host itself to nodes on the same link, as Flannel makes them: the kernel then
/// finds what comes from there in its place (reverse path filter), too. With [`Mode::Direct`]
/// somebody else makes them.
fn adjacent<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = ((IpNet, u32), Via)> + 'a {
    let automatic = facts.cluster.network.mode == Mode::Auto;
    let others = facts.others().filter(move |_| automatic);
    others
        .flat_map(|node| node.pod_cidrs.iter().map(move |prefix| (node, prefix)))
        .filter_map(|(node, prefix)| {
            let Way::Direct(path) = facts.way(node, prefix) else {
                return None;
            };
            let mut uplinks = facts.uplinks.iter();
            let via = Via::Gateway {
                name: uplinks
                    .find(|u| u.ifindex == path.hop.ifindex)?
                    .name
                    .to_owned(),
                gateway: path.hop.address,
                source: overlay_address(facts.own, prefix.network()),
            };
            Some(((*prefix, 0), via))
        })
}

/// Routes for the host itself to nodes behind a way that is narrower than the overlay device: the
/// kernel then fragments what may be fragmented, and tells everybody else. In most clusters there are none.
fn narrow<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = ((IpNet, u32), Via)> + 'a {
    let prefixes = facts.others();
    let prefixes = prefixes.flat_map(|n| n.pod_cidrs.iter().map(move |prefix| (n, prefix)));
    prefixes.filter_map(|(node, prefix)| {
        let source = overlay_address(facts.own, prefix.network())?;
        let way = facts.way(node, prefix);
        let Way::Tunnel(..) = way else {
            return None;
        };
        // Below what IPv6 needs, what is around the packet is fragmented.
        let least = if source.is_ipv6() { MIN_MTU_V6 } else { 0 };
        let mtu = way.mtu()?.max(least);
        let via = Via::Device {
            name: OVERLAY.into(),
            source: Some(source),
            mtu: Some(mtu.into()),
        };
        (mtu < facts.tunnel_mtu).then_some(((*prefix, 0), via))
    })
}

fn onto(device: &str, own: &NodeSpec, to: IpAddr) -> Via {
    Via::Device {
        name: device.to_owned(),
        source: overlay_address(own, to),
        mtu: None,
    }
}

fn neighbours(pods: &[DesiredPod]) -> BTreeMap<(String, IpAddr), Mac> {
    let of_pod = |pod: &DesiredPod| {
        let entry = |a: &IpAddr| ((pod.host_ifname.clone(), *a), pod.mac);
        pod.addresses.iter().map(entry).collect::<Vec<_>>()
    };
    pods.iter().flat_map(of_pod).collect()
}

impl<'a> Facts<'a> {
    /// All nodes but the own one.
    pub fn others(&self) -> impl Iterator<Item = &'a NodeSpec> + use<'a> {
        let own = &self.own.name;
        self.cluster.nodes.iter().filter(move |n| n.name != *own)
    }
}

/// What should be in the maps.
#[must_use]
pub fn tables(facts: &Facts<'_>, overlay_ifindex: u32) -> Tables {
    let mut sets = Sets::with_room(facts.max_hop_sets);
    let mut routes = BTreeMap::new();
    for node in &facts.cluster.nodes {
        for prefix in &node.pod_cidrs {
            let value = route_value(facts, node, prefix, overlay_ifindex, &mut sets);
            routes.insert(route_key(prefix), value);
        }
    }
    Tables {
        pods: pods(facts, overlay_ifindex),
        routes,
        hops: sets.values,
        unspread: sets.unspread,
        vteps: facts.others().flat_map(vteps).collect(),
        config: config(facts, overlay_ifindex),
    }
}

/// Every address that the node may send from.
fn vteps(node: &NodeSpec) -> impl Iterator<Item = (Addr, VtepValue)> {
    node.vteps.iter().map(|vtep| {
        let mut others = node.underlay().filter(|a| *a != vtep.underlay);
        let value = VtepValue {
            mac: vtep.mac,
            flags: 0,
            other: others.next().unwrap_or(vtep.underlay).into(),
        };
        (vtep.underlay.into(), value)
    })
}

fn pods(facts: &Facts<'_>, overlay_ifindex: u32) -> BTreeMap<Addr, PodValue> {
    let own = facts.own.pod_cidrs.iter().map(|c| {
        let value = PodValue {
            ifindex: overlay_ifindex,
            flags: pod_flags::HOST,
            mac: facts.own.vtep_mac(),
            host_mac: facts.own.vtep_mac(),
            netns: UNKNOWN_NETNS,
        };
        (Addr::from(c.network()), value)
    });
    let pods = facts.pods.iter().flat_map(|pod| {
        let value = PodValue {
            ifindex: pod.host_ifindex,
            flags: pod.flags,
            mac: pod.mac,
            host_mac: pod.host_mac,
            netns: pod.netns_id.unwrap_or(UNKNOWN_NETNS),
        };
        pod.addresses.iter().map(move |a| (Addr::from(*a), value))
    });
    own.chain(pods).collect()
}

/// The key of `ROUTES` for a prefix.
#[must_use]
pub fn route_key(prefix: &IpNet) -> RouteKey {
    let bits = match prefix {
        IpNet::V4(_) => V4_PREFIX_BITS,
        IpNet::V6(_) => 0,
    };
    RouteKey {
        prefix: Addr::from(prefix.network()),
        prefix_len: u32::from(prefix.prefix_len() + bits),
    }
}

fn route_value(
    facts: &Facts<'_>,
    node: &NodeSpec,
    prefix: &IpNet,
    overlay_ifindex: u32,
    sets: &mut Sets,
) -> RouteValue {
    // Without a family in common the entry still says whose prefix it is.
    let vtep = node.vtep(facts.own, prefix).or(node.vteps.first());
    let nowhere = RouteValue {
        underlay: vtep.map_or(Addr::UNSPECIFIED, |v| v.underlay.into()),
        next_hop: Addr::UNSPECIFIED,
        ifindex: 0,
        vni: facts.cluster.network.vni.get(),
        mac: vtep.map_or(Mac::ZERO, |v| v.mac),
        flags: route_flags::UNREACHABLE,
        mtu: facts.mtu,
        pad: [0; 2],
        hops: 0,
    };
    if node.name == facts.own.name {
        return RouteValue {
            next_hop: nowhere.underlay,
            ifindex: overlay_ifindex,
            flags: route_flags::LOCAL,
            ..nowhere
        };
    }
    let way = facts.way(node, prefix);
    match way {
        Way::Nowhere => RouteValue {
            flags: nowhere.flags | unrouted(facts.cluster.network.mode),
            ..nowhere
        },
        Way::Tunnel(_, path) => RouteValue {
            next_hop: path.hop.address.into(),
            ifindex: path.hop.ifindex,
            flags: 0,
            mtu: way.mtu().unwrap_or(facts.mtu),
            hops: sets.key_of(path, nowhere.underlay),
            ..nowhere
        },
        Way::Direct(path) => RouteValue {
            next_hop: path.hop.address.into(),
            ifindex: path.hop.ifindex,
            flags: route_flags::DIRECT,
            mtu: way.mtu().unwrap_or(facts.mtu),
            hops: sets.key_of(path, nowhere.underlay),
            ..nowhere
        },
    }
}

/// How an entry without a way says that nothing is encapsulated.
const fn unrouted(mode: Mode) -> u16 {
    match mode {
        Mode::Direct => route_flags::DIRECT,
        Mode::Vxlan | Mode::Auto => 0,
    }
}

fn config(facts: &Facts<'_>, overlay_ifindex: u32) -> Config {
    let underlay = |like| {
        let address = facts.own.underlay_like(like);
        address.map_or(Addr::UNSPECIFIED, Addr::from)
    };
    let overlay = |like| {
        let address = overlay_address(facts.own, like);
        address.map_or(Addr::UNSPECIFIED, Addr::from)
    };
    Config {
        abi: MAP_ABI,
        vni: facts.cluster.network.vni.get(),
        port: facts.cluster.network.port,
        mtu: facts.mtu,
        uplink: facts.uplinks.first().map_or(0, |u| u.ifindex),
        overlay: overlay_ifindex,
        underlay_v4: underlay(Ipv4Addr::UNSPECIFIED.into()),
        underlay_v6: underlay(Ipv6Addr::UNSPECIFIED.into()),
        overlay_v4: overlay(Ipv4Addr::UNSPECIFIED.into()),
        overlay_v6: overlay(Ipv6Addr::UNSPECIFIED.into()),
        vtep_mac: facts.own.vtep_mac(),
        dscp: match facts.cluster.network.dscp {
            Dscp::Fixed(dscp) => dscp,
            Dscp::Copy => COPY_DSCP,
        },
        flags: match facts.cluster.network.mode {
            Mode::Vxlan => 0,
            Mode::Direct | Mode::Auto => config_flags::DIRECT,
        },
        prefix_lens_v4: prefix_lengths(facts.cluster, true),
        prefix_lens_v6: prefix_lengths(facts.cluster, false),
        xdp_uplinks: xdp_uplinks(facts),
    }
}

/// Not more are chosen than fit.
fn xdp_uplinks(facts: &Facts<'_>) -> [XdpUplink; MAX_XDP_UPLINKS] {
    let mut list = [XdpUplink::zeroed(); MAX_XDP_UPLINKS];
    let used = facts.uplinks.iter().filter(|u| u.xdp);
    for (slot, uplink) in list.iter_mut().zip(used) {
        slot.ifindex = uplink.ifindex;
        slot.mac = uplink.mac;
    }
    list
}

/// The distinct lengths of a family, longest first. Validation has seen that they fit.
fn prefix_lengths(cluster: &ClusterConfig, v4: bool) -> [u8; MAX_PREFIX_LENGTHS] {
    let prefixes = cluster.nodes.iter().flat_map(|n| &n.pod_cidrs);
    let of_family = prefixes.filter(|p| matches!(p, IpNet::V4(_)) == v4);
    let bits = if v4 { V4_PREFIX_BITS } else { 0 };
    let lengths: BTreeSet<u8> = of_family.map(|p| p.prefix_len() + bits).collect();
    let mut list = [0; MAX_PREFIX_LENGTHS];
    for (slot, length) in list.iter_mut().zip(lengths.into_iter().rev()) {
        *slot = length;
    }
    list
}

/// The programs that should run.
#[must_use]
pub fn filters(facts: &Facts<'_>, overlay_ifindex: u32, lost: &[String]) -> BTreeSet<Filter> {
    let filter = |program, ifname: &str, ifindex| Filter {
        program,
        ifname: ifname.to_owned(),
        ifindex,
    };
    let there = facts.pods.iter().filter(|p| !lost.contains(&p.host_ifname));
    let pods = there.flat_map(|pod| {
        POD_PROGRAMS.map(|program| filter(program, &pod.host_ifname, pod.host_ifindex))
    });
    // The program reads Ethernet frames; what comes by another device goes the kernel's way.
    let uplinks = facts.uplinks.iter().filter(|u| u.ethernet);
    let uplinks = uplinks.map(|u| filter(Program::FromUplink, u.name, u.ifindex));
    let early = facts.uplinks.iter().filter(|u| u.xdp);
    let early = early.map(|u| filter(Program::XdpUplink, u.name, u.ifindex));
    let overlay = [Program::FromOverlay, Program::ToOverlay];
    let overlay = overlay.map(|program| filter(program, OVERLAY, overlay_ifindex));
    pods.chain(uplinks).chain(early).chain(overlay).collect()
}

/// The node's own overlay address of the same family as `like`.
fn overlay_address(own: &NodeSpec, like: IpAddr) -> Option<IpAddr> {
    let mut addresses = own.pod_cidrs.iter().map(IpNet::network);
    addresses.find(|a| a.is_ipv4() == like.is_ipv4())
}

#[cfg(test)]
mod tests;
