//! How the kernel would send to the other nodes: its own routing decides, with policy rules and all.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteType, RouteVia,
};

use super::layer3::{ROUTE_PROTOCOL, destination, ip, mtu_in};
use super::messages;
use super::rtnl::{Rtnl, RtnlError};
use super::sysctl;

/// The first step on the way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The device.
    pub ifindex: u32,
    /// Who receives it there: a gateway, or the node itself.
    pub address: IpAddr,
}

/// A next hop that takes a part of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// The next hop.
    pub hop: NextHop,
    /// Its part, in relation to those of the others: 1 to 256.
    pub weight: u16,
}

/// The way to a destination, as the kernel's routes have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The next hop; the first one if there are several.
    pub hop: NextHop,
    /// All next hops if there are several (equal-cost multipath), else nothing.
    pub shares: Vec<Share>,
    /// Their equals that packets cannot take now, because the link is down.
    pub down: Vec<Share>,
    /// Largest packet that fits on the way, bytes: the least MTU of the devices, or less by the
    /// route's metric or by path MTU discovery (RFC 1191, RFC 8201). None when a device has just gone.
    pub mtu: Option<u32>,
    /// For how long the kernel believes in what path MTU discovery has found, if that is where `mtu` is from.
    pub expires: Option<Duration>,
}

impl Path {
    /// Every next hop, once.
    pub fn hops(&self) -> impl Iterator<Item = NextHop> {
        let only = self.shares.is_empty().then_some(self.hop);
        only.into_iter().chain(self.shares.iter().map(|s| s.hop))
    }

    /// Whether `destination` itself is the next hop, whichever way a packet takes.
    #[must_use]
    pub fn is_on_link(&self, destination: IpAddr) -> bool {
        self.hops().all(|hop| hop.address == destination)
    }
}

/// Least MTU that path MTU discovery may find: IPv6's own (RFC 8200, section 5). IPv4 could have less, but
/// who forges an ICMP error could then make every packet small; and where there really is less, routers
/// fragment what is around the pods' packets.
const LEAST_LEARNED: u32 = 1280;

/// Ticks per second in what the kernel tells user space (include/asm-generic/param.h, `USER_HZ`).
const USER_HZ: u64 = 100;

/// Requests in flight: their answers must fit into the socket's receive buffer.
const AT_ONCE: usize = 64;

/// The way from `source` to each of `destinations`, in the same order; none without a route.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn to_addresses(
    rtnl: &mut Rtnl,
    source: IpAddr,
    destinations: &[IpAddr],
) -> Result<Vec<Option<Path>>, RtnlError> {
    let asked: Vec<_> = destinations.iter().map(|d| (Some(source), *d)).collect();
    let answers = ask(rtnl, &asked)?;
    let answers = destinations.iter().zip(answers);
    let paths = answers.map(|(to, answer)| path(&answer?, *to)).collect();
    with_device_mtus(rtnl, paths)
}

/// The way from `source` to each of these prefixes by somebody else's route that covers it: a
/// routing daemon's or an administrator's. Default routes do not count, for what is behind them
/// need not know pods.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn to_prefixes(
    rtnl: &mut Rtnl,
    source: impl Fn(&IpNet) -> Option<IpAddr>,
    prefixes: &[IpNet],
) -> Result<Vec<Option<Path>>, RtnlError> {
    let asked: Vec<_> = prefixes.iter().map(|p| (source(p), p.network())).collect();
    let answers = ask(rtnl, &asked)?;
    let answers = prefixes.iter().zip(answers);
    let paths = answers.map(|(prefix, answer)| foreign_path(&answer?, prefix));
    let paths = paths.collect();
    with_device_mtus(rtnl, paths)
}

fn foreign_path(answer: &Answer, prefix: &IpNet) -> Option<Path> {
    let route = answer.route.as_ref()?;
    let ours = route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
    let to = destination(route)?;
    if ours || to.prefix_len() == 0 || !to.contains(prefix) {
        return None;
    }
    let first = prefix.network();
    let path = path(answer, first)?;
    // Without a gateway every pod would have to be a neighbour of its own.
    let through = path.hops().all(|hop| hop.address != first);
    through.then_some(path)
}

/// What the kernel says about a destination.
struct Answer {
    /// What a packet would do: this knows redirects, and all forms of next hops.
    chosen: RouteMessage,
    /// The route that it would take: only this knows all next hops.
    route: Option<RouteMessage>,
}

/// Asks about packets with these source and destination addresses; none where they go nowhere.
fn ask(
    rtnl: &mut Rtnl,
    addresses: &[(Option<IpAddr>, IpAddr)],
) -> Result<Vec<Option<Answer>>, RtnlError> {
    let mut found = Vec::with_capacity(addresses.len());
    for some in addresses.chunks(AT_ONCE) {
        let question = |flags| move |(from, to): &_| question(*from, *to, flags);
        let chosen = some.iter().map(question(RouteFlags::empty())).collect();
        let chosen = rtnl.ask_each(chosen)?.into_iter().map(route);
        let routes = some.iter().map(question(RouteFlags::FibMatch)).collect();
        let routes = rtnl.ask_each(routes)?.into_iter().map(route);
        found.extend(chosen.zip(routes).map(|(chosen, route)| {
            let chosen = chosen.filter(|c| c.header.kind == RouteType::Unicast)?;
            Some(Answer { chosen, route })
        }));
    }
    Ok(found)
}

fn route(answer: Option<Message>) -> Option<RouteMessage> {
    match answer? {
        Message::NewRoute(route) => Some(route),
        _ => None,
    }
}

fn question(source: Option<IpAddr>, destination: IpAddr, flags: RouteFlags) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = messages::family(destination);
    message.header.destination_prefix_length = messages::host_prefix(destination);
    message.header.flags = flags;
    let destination = messages::route_address(destination);
    message.attributes = vec![RouteAttribute::Destination(destination)];
    if let Some(source) = source {
        message.header.source_prefix_length = messages::host_prefix(source);
        let source = RouteAttribute::Source(messages::route_address(source));
        message.attributes.push(source);
    }
    Message::GetRoute(message)
}

fn path(answer: &Answer, destination: IpAddr) -> Option<Path> {
    let shares = answer.route.as_ref().map(|r| usable(r, destination));
    let (mut shares, down) = shares.unwrap_or_default();
    let hop = match shares.first() {
        Some(share) => share.hop,
        None => next_hop(&answer.chosen, destination)?,
    };
    if shares.len() == 1 {
        shares.clear();
    }
    let (mtu, expires) = route_mtu(&answer.chosen);
    Some(Path {
        hop,
        shares,
        down,
        mtu,
        expires,
    })
}

/// What the route allows, be it by its metric or by what path MTU discovery has found, and for how long.
fn route_mtu(route: &RouteMessage) -> (Option<u32>, Option<Duration>) {
    let (mut mtu, mut expires) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Metrics(metrics) => mtu = mtu_in(metrics),
            RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                expires = Some(Duration::from_millis(
                    u64::from(info.expires) * 1000 / USER_HZ,
                ));
            }
            _ => {}
        }
    }
    // A route that a router has advertised expires, too, but that is told by netlink.
    (mtu, expires.filter(|_| mtu.is_some()))
}

/// Limits the MTU of each path by those of its devices.
fn with_device_mtus(
    rtnl: &mut Rtnl,
    mut paths: Vec<Option<Path>>,
) -> Result<Vec<Option<Path>>, RtnlError> {
    let hops = paths.iter().flatten().flat_map(Path::hops);
    let families: BTreeSet<(u32, bool)> = hops.map(|h| (h.ifindex, h.address.is_ipv6())).collect();
    let devices = device_mtus(rtnl, &families)?;
    for path in paths.iter_mut().flatten() {
        let of = |hop: NextHop| devices.get(&(hop.ifindex, hop.address.is_ipv6())).copied();
        let device = path.hops().map(of).min().flatten();
        let route = path.mtu.map(|mtu| match path.expires {
            Some(_) => mtu.max(LEAST_LEARNED),
            None => mtu,
        });
        path.mtu = device.map(|device| route.map_or(device, |route| route.min(device)));
    }
    Ok(paths)
}

/// MTU of each of these devices for packets of IPv6 (true) or IPv4.
fn device_mtus(
    rtnl: &mut Rtnl,
    devices: &BTreeSet<(u32, bool)>,
) -> Result<HashMap<(u32, bool), u32>, RtnlError> {
    let devices: Vec<_> = devices.iter().copied().collect();
    let mut found = HashMap::new();
    for some in devices.chunks(AT_ONCE) {
        let questions = some
            .iter()
            .map(|(index, _)| messages::get_link_by_index(*index));
        let answers = rtnl.ask_each(questions.collect())?;
        let mtus = some.iter().zip(answers);
        found.extend(mtus.filter_map(|(of, answer)| Some((*of, mtu_of(&answer?, of.1)?))));
    }
    Ok(found)
}

fn mtu_of(link: &Message, is_v6: bool) -> Option<u32> {
    let Message::NewLink(link) = link else {
        return None;
    };
    let mtu = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    let name = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
    // A router may have advertised less for IPv6 (RFC 4861, section 4.6.4).
    let of_ipv6 = name.filter(|_| is_v6);
    let of_ipv6 = of_ipv6.and_then(|name| sysctl::read(&format!("net/ipv6/conf/{name}/mtu")));
    let of_ipv6 = of_ipv6.and_then(|mtu| mtu.parse().ok());
    mtu.map(|mtu| of_ipv6.map_or(mtu, |v6: u32| v6.min(mtu)))
}

/// The next hops of a multipath route that packets should take, and the others.
///
/// The kernel goes on sending to a device without a carrier unless it is told otherwise by a
/// sysctl; here such a next hop only counts while all are like it.
fn usable(route: &RouteMessage, destination: IpAddr) -> (Vec<Share>, Vec<Share>) {
    let all = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => Some(hops.as_slice()),
        _ => None,
    });
    let all = all.unwrap_or_default();
    let alive = |hop: &RouteNextHop| !hop.flags.contains(RouteNextHopFlags::Dead);
    let linked = |hop: &RouteNextHop| !hop.flags.contains(RouteNextHopFlags::Linkdown);
    let some_linked = all.iter().any(|hop| alive(hop) && linked(hop));
    let (used, down): (Vec<_>, Vec<_>) = all
        .iter()
        .partition(|hop| alive(hop) && (linked(hop) || !some_linked));
    let shares = |hops: Vec<&RouteNextHop>| {
        let shares = hops.into_iter().map(|hop| share(hop, destination));
        shares.flatten().collect()
    };
    (shares(used), shares(down))
}

fn share(hop: &RouteNextHop, destination: IpAddr) -> Option<Share> {
    let hop_of = NextHop {
        ifindex: hop.interface_index,
        address: gateway(&hop.attributes, destination)?,
    };
    Some(Share {
        hop: hop_of,
        weight: u16::from(hop.hops) + 1,
    })
}

fn next_hop(route: &RouteMessage, destination: IpAddr) -> Option<NextHop> {
    let ifindex = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Some(NextHop {
        ifindex: ifindex?,
        address: gateway(&route.attributes, destination)?,
    })
}

/// The gateway, or the destination itself where there is none.
fn gateway(attributes: &[RouteAttribute], destination: IpAddr) -> Option<IpAddr> {
    let explicit = attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(gateway) => Some(ip(gateway)),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some(Some((*gateway).into())),
        _ => None,
    });
    explicit.unwrap_or(Some(destination))
}

#[cfg(test)]
mod tests;
