//! Addresses, routes and neighbours of the node: what there is, and the changes that the agent makes.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::net::IpAddr;

use ipnet::IpNet;
use oxlan_common::addr::Mac;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::messages;
use super::rtnl::{Batch, Rtnl, RtnlError};

/// Number by which every route says who made it (`ip route` shows `proto 79`).
///
/// No other program has it in `/etc/iproute2/rt_protos`. Routes with it are ours to remove.
pub const ROUTE_PROTOCOL: u8 = 79;

/// An address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Index of the device.
    pub ifindex: u32,
    /// The address with its prefix length.
    pub net: IpNet,
}

/// A route with [`ROUTE_PROTOCOL`] in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Smaller is preferred; 0 lets the kernel choose (IPv4: 0, IPv6: 1024).
    pub metric: u32,
    /// How.
    pub way: Way,
}

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The destination is on this device.
    Device {
        /// Index of the device.
        ifindex: u32,
        /// Preferred source address.
        source: Option<IpAddr>,
        /// Largest packet, bytes, where it is less than the device's MTU.
        mtu: Option<u32>,
    },
    /// Somebody on this device passes it on, or is the destination.
    Gateway {
        /// Index of the device.
        ifindex: u32,
        /// Who receives it there.
        gateway: IpAddr,
        /// Preferred source address.
        source: Option<IpAddr>,
    },
    /// The sender is told that there is no such host.
    Unreachable,
}

/// An entry of the neighbour tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the device.
    pub ifindex: u32,
    /// The neighbour.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: Mac,
    /// Whether it stays until somebody removes it.
    pub permanent: bool,
}

/// Every address of the namespace of `rtnl`.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn addresses(rtnl: &mut Rtnl) -> Result<Vec<Address>, RtnlError> {
    let answers = rtnl.dump("list addresses", messages::get_addresses())?;
    Ok(answers.iter().filter_map(address).collect())
}

/// Every route with [`ROUTE_PROTOCOL`]; the kernel leaves the others out, which can be a million.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn routes(rtnl: &mut Rtnl) -> Result<Vec<Route>, RtnlError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut ours = RouteMessage::default();
        ours.header.address_family = family;
        ours.header.table = RouteHeader::RT_TABLE_MAIN;
        ours.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let answers = rtnl.dump("list routes", Message::GetRoute(ours))?;
        routes.extend(answers.iter().filter_map(route));
    }
    Ok(routes)
}

/// Every neighbour that has a MAC.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn neighbours(rtnl: &mut Rtnl) -> Result<Vec<Neighbour>, RtnlError> {
    let answers = rtnl.dump("list neighbours", messages::get_neighbours())?;
    Ok(answers.iter().filter_map(neighbour).collect())
}

/// Adds a single address to a device; that it is there is success.
///
/// # Errors
/// When the kernel refuses.
pub fn add_address(rtnl: &mut Rtnl, address: IpAddr, ifindex: u32) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    let what = format!("add the address {address}");
    batch.replace(what, messages::address(address, ifindex));
    rtnl.run(batch).map(drop)
}

/// Removes an address from a device; that it is gone is success.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_address(rtnl: &mut Rtnl, address: Address) -> Result<(), RtnlError> {
    let mut message = AddressMessage::default();
    message.header.family = messages::family(address.net.addr());
    message.header.prefix_len = address.net.prefix_len();
    message.header.index = address.ifindex;
    message.attributes = vec![
        AddressAttribute::Local(address.net.addr()),
        AddressAttribute::Address(address.net.addr()),
    ];
    let mut batch = Batch::new();
    let what = format!("remove the address {}", address.net);
    batch.remove(what, Message::DelAddress(message));
    rtnl.run(batch).map(drop)
}

/// Makes a route, in place of one with the same destination and metric.
///
/// # Errors
/// When the kernel refuses.
pub fn set_route(rtnl: &mut Rtnl, route: &Route) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    let what = format!("make the route to {}", route.destination);
    batch.replace(what, Message::NewRoute(route_message(route)));
    rtnl.run(batch).map(drop)
}

/// Removes a route; that it is gone is success.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_route(rtnl: &mut Rtnl, route: &Route) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    let what = format!("remove the route to {}", route.destination);
    batch.remove(what, Message::DelRoute(route_message(route)));
    rtnl.run(batch).map(drop)
}

/// Makes a permanent neighbour, in place of any other entry.
///
/// # Errors
/// When the kernel refuses.
pub fn set_neighbour(
    rtnl: &mut Rtnl,
    address: IpAddr,
    mac: Mac,
    ifindex: u32,
) -> Result<(), RtnlError> {
    let mut batch = Batch::new();
    let what = format!("make the neighbour {address}");
    batch.replace(what, messages::neighbour(address, mac, ifindex));
    rtnl.run(batch).map(drop)
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = messages::family(route.destination.addr());
    header.destination_prefix_length = route.destination.prefix_len();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    let destination = messages::route_address(route.destination.network());
    message
        .attributes
        .push(RouteAttribute::Destination(destination));
    if route.metric > 0 {
        message
            .attributes
            .push(RouteAttribute::Priority(route.metric));
    }
    match route.way {
        Way::Device {
            ifindex,
            source,
            mtu,
        } => {
            message.header.kind = RouteType::Unicast;
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(ifindex));
            prefer(&mut message, source);
            let metrics = mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            message.attributes.extend(metrics);
        }
        Way::Gateway {
            ifindex,
            gateway,
            source,
        } => {
            message.header.kind = RouteType::Unicast;
            let gateway = messages::route_address(gateway);
            message.attributes.push(RouteAttribute::Gateway(gateway));
            message.attributes.push(RouteAttribute::Oif(ifindex));
            prefer(&mut message, source);
        }
        Way::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message
}

fn prefer(message: &mut RouteMessage, source: Option<IpAddr>) {
    let source = source.map(messages::route_address);
    message
        .attributes
        .extend(source.map(RouteAttribute::PrefSource));
}

fn address(message: &Message) -> Option<Address> {
    let Message::NewAddress(message) = message else {
        return None;
    };
    let (mut local, mut remote) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point device `Address` is the other end.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(remote)?, message.header.prefix_len).ok()?;
    Some(Address {
        ifindex: message.header.index,
        net,
    })
}

/// A route message in the agent's terms; none if it is not ours or of a kind that the agent does not make.
pub(super) fn route(message: &Message) -> Option<Route> {
    let Message::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    if header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
        return None;
    }
    let (mut ifindex, mut gateway, mut source, mut metric) = (None, None, None, 0);
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => mtu = mtu_in(metrics),
            _ => {}
        }
    }
    let way = match (header.kind, gateway) {
        (RouteType::Unicast, None) => Way::Device {
            ifindex: ifindex?,
            source,
            mtu,
        },
        (RouteType::Unicast, Some(gateway)) => Way::Gateway {
            ifindex: ifindex?,
            gateway,
            source,
        },
        (RouteType::Unreachable, _) => Way::Unreachable,
        _ => return None,
    };
    let destination = destination(message)?;
    // What IPv6 chooses for a route without a metric counts as none.
    if matches!(destination, IpNet::V6(_)) && metric == DEFAULT_METRIC_V6 {
        metric = 0;
    }
    Some(Route {
        destination,
        metric,
        way,
    })
}

/// The MTU among a route's metrics; 0 stands for none.
pub(super) fn mtu_in(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

/// `IP6_RT_PRIO_USER` (include/uapi/linux/ipv6_route.h).
const DEFAULT_METRIC_V6: u32 = 1024;

/// Where a route leads.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let explicit = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let everything = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let length = message.header.destination_prefix_length;
    IpNet::new(explicit.unwrap_or(everything), length).ok()
}

fn neighbour(message: &Message) -> Option<Neighbour> {
    let Message::NewNeighbour(message) = message else {
        return None;
    };
    let address = neighbour_address(message)?;
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok().map(Mac::new),
        _ => None,
    });
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address,
        mac: mac?,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}

fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
