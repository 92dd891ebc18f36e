//! The rtnetlink messages that a pod's attachment is made of.

use std::net::IpAddr;
use std::os::fd::RawFd;

use oxlan_common::addr::Mac;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::veth::Pair;

/// `IFLA_INET_CONF` (include/uapi/linux/if_link.h).
const IFLA_INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_FORWARDING` and `IPV4_DEVCONF_SEND_REDIRECTS` (include/uapi/linux/ip.h).
const IPV4_DEVCONF_FORWARDING: u16 = 1;
const IPV4_DEVCONF_SEND_REDIRECTS: u16 = 6;

/// The pair, down, with the peer in the namespace behind `netns`.
pub(super) fn new_veth(pair: &Pair<'_>, netns: RawFd) -> Message {
    let side = |name: &str, mac: Mac| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.bytes.to_vec()),
            LinkAttribute::Mtu(pair.mtu.into()),
        ]
    };
    let mut peer = LinkMessage::default();
    peer.attributes = side(pair.pod_ifname, pair.pod_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(netns));
    let mut link = LinkMessage::default();
    link.attributes = side(pair.host_ifname, pair.host_mac);
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Message::NewLink(link)
}

/// The host side up, forwarding, without redirects and (where IPv6 is) without addresses of its own.
pub(super) fn host_side_up(ifindex: u32, ipv6: bool) -> Message {
    let mut families = vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(
        DefaultNla::new(
            IFLA_INET_CONF,
            [
                devconf(IPV4_DEVCONF_FORWARDING, 1),
                devconf(IPV4_DEVCONF_SEND_REDIRECTS, 0),
            ]
            .concat(),
        ),
    )])];
    if ipv6 {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        families.push(AfSpecUnspec::Inet6(vec![mode]));
    }
    let mut link = up(LinkMessage::default());
    link.header.index = ifindex;
    link.attributes.push(LinkAttribute::AfSpecUnspec(families));
    Message::SetLink(link)
}

/// One attribute of `IFLA_INET_CONF`: the kernel wants numbered values, while it answers with a
/// plain array, which is the only form that the library knows.
fn devconf(number: u16, value: u32) -> Vec<u8> {
    let mut bytes = 8_u16.to_ne_bytes().to_vec();
    bytes.extend(number.to_ne_bytes());
    bytes.extend(value.to_ne_bytes());
    bytes
}

pub(super) fn link_up(ifindex: u32) -> Message {
    let mut link = up(LinkMessage::default());
    link.header.index = ifindex;
    Message::SetLink(link)
}

pub(super) fn link_up_by_name(name: &str) -> Message {
    Message::SetLink(up(named(name)))
}

pub(super) fn set_mtu(name: &str, mtu: u16) -> Message {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::Mtu(mtu.into()));
    Message::SetLink(link)
}

pub(super) fn remove_link(name: &str) -> Message {
    Message::DelLink(named(name))
}

pub(super) fn get_link(name: &str) -> Message {
    Message::GetLink(named(name))
}

pub(super) fn get_link_by_index(ifindex: u32) -> Message {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    Message::GetLink(link)
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn up(mut link: LinkMessage) -> LinkMessage {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

/// One address alone, without duplicate address detection: IPAM has seen to that.
pub(super) fn address(address: IpAddr, ifindex: u32) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = host_prefix(address);
    message.header.index = ifindex;
    message.header.scope = AddressScope::Universe;
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    Message::NewAddress(message)
}

/// A neighbour that never expires and is never asked for.
pub(super) fn neighbour(address: IpAddr, mac: Mac, ifindex: u32) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(neighbour_address(address)),
        NeighbourAttribute::LinkLayerAddress(mac.bytes.to_vec()),
    ];
    Message::NewNeighbour(message)
}

/// A route in the main table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    /// An address alone, or everything when absent.
    pub(super) destination: Option<IpAddr>,
    /// Next hop; without one the destination is on the link.
    pub(super) gateway: Option<IpAddr>,
    /// Preferred source address.
    pub(super) source: Option<IpAddr>,
    /// The family, which a default route does not tell.
    pub(super) family: AddressFamily,
    pub(super) ifindex: u32,
}

impl Route {
    pub(super) fn to_host(destination: IpAddr, ifindex: u32) -> Self {
        Self {
            destination: Some(destination),
            gateway: None,
            source: None,
            family: family(destination),
            ifindex,
        }
    }

    pub(super) fn default_via(gateway: IpAddr, ifindex: u32) -> Self {
        Self {
            destination: None,
            gateway: Some(gateway),
            source: None,
            family: family(gateway),
            ifindex,
        }
    }
}

pub(super) fn route(route: &Route) -> Message {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = route.family;
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(super::layer3::ROUTE_PROTOCOL);
    header.kind = RouteType::Unicast;
    header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    if let Some(destination) = route.destination {
        header.destination_prefix_length = host_prefix(destination);
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(destination)));
    }
    if let Some(gateway) = route.gateway {
        message.header.flags = RouteFlags::Onlink;
        message
            .attributes
            .push(RouteAttribute::Gateway(route_address(gateway)));
    }
    if let Some(source) = route.source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(route_address(source)));
    }
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    Message::NewRoute(message)
}

pub(super) fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Asks for the route that the kernel's table holds for an address, not for its resolution.
pub(super) fn match_route(address: IpAddr) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = host_prefix(address);
    message.header.flags = RouteFlags::FibMatch;
    message
        .attributes
        .push(RouteAttribute::Destination(route_address(address)));
    Message::GetRoute(message)
}

pub(super) fn get_neighbour(address: IpAddr, ifindex: u32) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(neighbour_address(address)));
    Message::GetNeighbour(message)
}

pub(super) fn get_addresses() -> Message {
    Message::GetAddress(AddressMessage::default())
}

pub(super) fn get_routes() -> Message {
    Message::GetRoute(RouteMessage::default())
}

pub(super) fn get_neighbours() -> Message {
    Message::GetNeighbour(NeighbourMessage::default())
}

fn neighbour_address(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}
