//! The node's own addresses towards everybody else.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::layer3::ip;
use super::messages;
use super::rtnl::{Rtnl, RtnlError};

/// Addresses that nobody has (RFC 5737 and RFC 3849), so only a default route leads there.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The source addresses with which packets leave by the default routes: at most one per family,
/// IPv4 first.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn own_addresses(rtnl: &mut Rtnl) -> Result<Vec<IpAddr>, RtnlError> {
    let answers = rtnl.ask_each(ANYWHERE.into_iter().map(question).collect())?;
    Ok(answers.iter().flatten().filter_map(source).collect())
}

fn question(destination: IpAddr) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = messages::family(destination);
    message.header.destination_prefix_length = messages::host_prefix(destination);
    let to = RouteAttribute::Destination(messages::route_address(destination));
    message.attributes.push(to);
    Message::GetRoute(message)
}

fn source(answer: &Message) -> Option<IpAddr> {
    let Message::NewRoute(route) = answer else {
        return None;
    };
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(address) => ip(address),
        _ => None,
    })
}
