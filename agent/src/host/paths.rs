//! How the kernel would send to the other nodes: its own routing decides, with policy rules and all.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType, RouteVia};

use super::layer3::ip;
use super::messages;
use super::rtnl::{Rtnl, RtnlError};

/// The first step on the way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The device.
    pub ifindex: u32,
    /// Who receives it there: a gateway, or the node itself.
    pub address: IpAddr,
}

/// Requests in flight: their answers must fit into the socket's receive buffer.
const AT_ONCE: usize = 64;

/// The next hop from `source` to each of `destinations`, in the same order; none without a route.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn next_hops(
    rtnl: &mut Rtnl,
    source: IpAddr,
    destinations: &[IpAddr],
) -> Result<Vec<Option<NextHop>>, RtnlError> {
    let mut found = Vec::with_capacity(destinations.len());
    for some in destinations.chunks(AT_ONCE) {
        let questions = some.iter().map(|d| question(source, *d)).collect();
        let answers = rtnl.ask_each(questions)?;
        let hops = some.iter().zip(answers);
        found.extend(hops.map(|(to, answer)| answer.and_then(|message| next_hop(&message, *to))));
    }
    Ok(found)
}

fn question(source: IpAddr, destination: IpAddr) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = messages::family(destination);
    message.header.destination_prefix_length = messages::host_prefix(destination);
    message.header.source_prefix_length = messages::host_prefix(source);
    message.attributes = vec![
        RouteAttribute::Destination(messages::route_address(destination)),
        RouteAttribute::Source(messages::route_address(source)),
    ];
    Message::GetRoute(message)
}

fn next_hop(answer: &Message, destination: IpAddr) -> Option<NextHop> {
    let Message::NewRoute(route) = answer else {
        return None;
    };
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut ifindex, mut address) = (None, destination);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(gateway) => address = ip(gateway)?,
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => address = (*gateway).into(),
            _ => {}
        }
    }
    Some(NextHop {
        ifindex: ifindex?,
        address,
    })
}
