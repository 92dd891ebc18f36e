//! What is really there of a pod's pair, for CHECK.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::net::IpAddr;

use oxlan_common::addr::Mac;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};

use super::link::{self, LinkState};
use super::messages;
use super::netns::Netns;
use super::rtnl::{Batch, Rtnl, RtnlError};
use super::shaper::{self, TokenBucket};
use super::veth::{self, Pair, VethError};

/// Compares the host side of a pair with what it should be. Returns the differences in words.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn host_side(
    rtnl: &mut Rtnl,
    pair: &Pair<'_>,
    addresses: &[IpAddr],
) -> Result<Vec<String>, VethError> {
    let name = pair.host_ifname;
    let Some(link) = link::find(rtnl, name)? else {
        return Ok(vec![format!("the host side {name} does not exist")]);
    };
    let mut differences = link_differences(name, &link, pair.host_mac, pair.mtu);
    differences.extend(limit_difference(
        rtnl,
        name,
        link.ifindex,
        pair.to_pod.as_ref(),
    )?);
    for address in addresses {
        if !host_route_is_right(rtnl, *address, link.ifindex)? {
            differences.push(format!("the host has no route to {address} on {name}"));
        }
        if host_neighbour(rtnl, *address, link.ifindex)? != Some(pair.pod_mac) {
            differences.push(format!(
                "the host has no permanent neighbour {address} on {name}"
            ));
        }
    }
    Ok(differences)
}

/// The same for the pod's side.
///
/// # Errors
/// When the namespace cannot be entered or the kernel cannot be asked.
pub fn pod_side(
    netns: &Netns,
    pair: &Pair<'_>,
    addresses: &[IpAddr],
) -> Result<Vec<String>, VethError> {
    netns.run(|| pod_side_inside(pair, addresses))?
}

fn pod_side_inside(pair: &Pair<'_>, addresses: &[IpAddr]) -> Result<Vec<String>, VethError> {
    let name = pair.pod_ifname;
    let mut rtnl = Rtnl::open()?;
    let Some(link) = link::find(&mut rtnl, name)? else {
        return Ok(vec![format!("the pod has no interface {name}")]);
    };
    let mut differences = link_differences(name, &link, pair.pod_mac, pair.mtu);
    let limit = pair.from_pod.as_ref();
    differences.extend(limit_difference(&mut rtnl, name, link.ifindex, limit)?);
    let present = Present::read(&mut rtnl, link.ifindex)?;
    for address in addresses {
        let gateway = veth::gateway_for(*address);
        if !present.addresses.contains(address) {
            differences.push(format!("the pod's {name} has lost its address {address}"));
        }
        if !present.default_gateways.contains(&gateway) {
            differences.push(format!(
                "the pod has no default route via {gateway} on {name}"
            ));
        }
        if !present.neighbours.contains(&gateway) {
            differences.push(format!(
                "the pod has no permanent neighbour {gateway} on {name}"
            ));
        }
    }
    Ok(differences)
}

fn limit_difference(
    rtnl: &mut Rtnl,
    name: &str,
    ifindex: u32,
    wanted: Option<&TokenBucket>,
) -> Result<Option<String>, RtnlError> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let present = shaper::present(rtnl, &[ifindex])?.into_iter().next();
    let differs = !wanted.is(present.flatten());
    Ok(differs.then(|| format!("{name} is not limited to {wanted}")))
}

fn link_differences(name: &str, link: &LinkState, mac: Mac, mtu: u16) -> Vec<String> {
    let mut differences = Vec::new();
    if !link.up {
        differences.push(format!("{name} is down"));
    }
    if link.mac != mac {
        differences.push(format!("{name} has the MAC {} instead of {mac}", link.mac));
    }
    if link.mtu != u32::from(mtu) {
        differences.push(format!("{name} has the MTU {} instead of {mtu}", link.mtu));
    }
    differences
}

/// Whether the most specific route to `address` is its own on this interface.
fn host_route_is_right(rtnl: &mut Rtnl, address: IpAddr, ifindex: u32) -> Result<bool, RtnlError> {
    let mut batch = Batch::new();
    batch.request(
        format!("find the route to {address}"),
        messages::match_route(address),
    );
    let answers = match rtnl.run(batch) {
        Ok(answers) => answers,
        Err(RtnlError::Refused { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(answers.iter().any(|answer| match answer {
        Message::NewRoute(route) => {
            let here = |a: &RouteAttribute| matches!(a, RouteAttribute::Oif(o) if *o == ifindex);
            route.attributes.iter().any(here)
        }
        _ => false,
    }))
}

/// MAC of a permanent neighbour on this interface.
fn host_neighbour(
    rtnl: &mut Rtnl,
    address: IpAddr,
    ifindex: u32,
) -> Result<Option<Mac>, RtnlError> {
    let mut batch = Batch::new();
    let message = messages::get_neighbour(address, ifindex);
    batch.request(format!("find the neighbour {address}"), message);
    let answers = match rtnl.run(batch) {
        Ok(answers) => answers,
        Err(RtnlError::Refused { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(answers.iter().find_map(|answer| match answer {
        Message::NewNeighbour(neighbour) if is_permanent(neighbour) => mac_of(neighbour),
        _ => None,
    }))
}

/// What one interface of a pod has.
struct Present {
    addresses: Vec<IpAddr>,
    default_gateways: Vec<IpAddr>,
    neighbours: Vec<IpAddr>,
}

impl Present {
    /// A pod's tables are small, so they are read whole.
    fn read(rtnl: &mut Rtnl, ifindex: u32) -> Result<Self, RtnlError> {
        let addresses = rtnl.dump("list addresses", messages::get_addresses())?;
        let routes = rtnl.dump("list routes", messages::get_routes())?;
        let neighbours = rtnl.dump("list neighbours", messages::get_neighbours())?;
        Ok(Self {
            addresses: addresses
                .iter()
                .filter_map(|m| address_on(m, ifindex))
                .collect(),
            default_gateways: routes
                .iter()
                .filter_map(|m| default_on(m, ifindex))
                .collect(),
            neighbours: neighbours
                .iter()
                .filter_map(|m| neighbour_on(m, ifindex))
                .collect(),
        })
    }
}

fn address_on(message: &Message, ifindex: u32) -> Option<IpAddr> {
    let Message::NewAddress(AddressMessage {
        header, attributes, ..
    }) = message
    else {
        return None;
    };
    let address = attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    address.filter(|_| header.index == ifindex)
}

fn default_on(message: &Message, ifindex: u32) -> Option<IpAddr> {
    let Message::NewRoute(RouteMessage {
        header, attributes, ..
    }) = message
    else {
        return None;
    };
    let on_link = attributes.contains(&RouteAttribute::Oif(ifindex));
    let usable = header.kind == RouteType::Unicast && !header.flags.contains(RouteFlags::Dead);
    if header.destination_prefix_length > 0 || !on_link || !usable {
        return None;
    }
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

fn neighbour_on(message: &Message, ifindex: u32) -> Option<IpAddr> {
    let Message::NewNeighbour(neighbour) = message else {
        return None;
    };
    if neighbour.header.ifindex != ifindex || !is_permanent(neighbour) {
        return None;
    }
    neighbour.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

fn is_permanent(neighbour: &NeighbourMessage) -> bool {
    neighbour.header.state == NeighbourState::Permanent
}

fn mac_of(neighbour: &NeighbourMessage) -> Option<Mac> {
    neighbour.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok().map(Mac::new),
        _ => None,
    })
}
