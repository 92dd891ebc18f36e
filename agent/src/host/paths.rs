//! How the kernel would send to the other nodes: its own routing decides, with policy rules and all.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's messages grow with every kernel"
)]

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use super::layer3::ip;
use super::messages;
use super::rtnl::{Rtnl, RtnlError};
use super::sysctl;

/// The first step on the way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The device.
    pub ifindex: u32,
    /// Who receives it there: a gateway, or the node itself.
    pub address: IpAddr,
    /// Largest packet that fits on the way, bytes: the device's MTU, or less by the route's metric
    /// or by path MTU discovery (RFC 1191, RFC 8201). None when the device has just gone.
    pub mtu: Option<u32>,
    /// For how long the kernel believes in what path MTU discovery has found, if that is where `mtu` is from.
    pub expires: Option<Duration>,
}

/// Ticks per second in what the kernel tells user space (include/asm-generic/param.h, `USER_HZ`).
const USER_HZ: u64 = 100;

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
    let devices = device_mtus(rtnl, source, &found)?;
    for hop in found.iter_mut().flatten() {
        let device = devices.get(&hop.ifindex).copied();
        hop.mtu = device.map(|device| hop.mtu.map_or(device, |route| route.min(device)));
    }
    Ok(found)
}

/// MTU of each device that a next hop is on, for packets of the family of `source`.
fn device_mtus(
    rtnl: &mut Rtnl,
    source: IpAddr,
    hops: &[Option<NextHop>],
) -> Result<HashMap<u32, u32>, RtnlError> {
    let devices: BTreeSet<u32> = hops.iter().flatten().map(|hop| hop.ifindex).collect();
    let devices: Vec<u32> = devices.into_iter().collect();
    let mut found = HashMap::new();
    for some in devices.chunks(AT_ONCE) {
        let questions = some.iter().map(|index| messages::get_link_by_index(*index));
        let answers = rtnl.ask_each(questions.collect())?;
        let mtus = some.iter().zip(answers);
        found.extend(mtus.filter_map(|(index, answer)| Some((*index, mtu_of(&answer?, source)?))));
    }
    Ok(found)
}

fn mtu_of(link: &Message, source: IpAddr) -> Option<u32> {
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
    let of_ipv6 = name.filter(|_| source.is_ipv6());
    let of_ipv6 = of_ipv6.and_then(|name| sysctl::read(&format!("net/ipv6/conf/{name}/mtu")));
    let of_ipv6 = of_ipv6.and_then(|mtu| mtu.parse().ok());
    mtu.map(|mtu| of_ipv6.map_or(mtu, |v6: u32| v6.min(mtu)))
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
    let (mut mtu, mut expires) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(gateway) => address = ip(gateway)?,
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => address = (*gateway).into(),
            RouteAttribute::Metrics(metrics) => mtu = mtu_in(metrics),
            RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                expires = Some(Duration::from_millis(
                    u64::from(info.expires) * 1000 / USER_HZ,
                ));
            }
            _ => {}
        }
    }
    Some(NextHop {
        ifindex: ifindex?,
        address,
        mtu,
        // A route that a router has advertised expires, too, but that is told by netlink.
        expires: expires.filter(|_| mtu.is_some()),
    })
}

fn mtu_in(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::fixture::{on_a_node, shell};

    /// The MTU of the way to each destination.
    fn mtus(source: &str, destinations: &[&str]) -> Vec<Option<u32>> {
        let parse = |text: &&str| text.parse::<IpAddr>().unwrap();
        let destinations: Vec<_> = destinations.iter().map(parse).collect();
        let mut rtnl = Rtnl::open().unwrap();
        let hops = next_hops(&mut rtnl, source.parse().unwrap(), &destinations).unwrap();
        hops.into_iter()
            .map(|hop| hop.and_then(|h| h.mtu))
            .collect()
    }

    #[test]
    fn the_mtu_is_the_least_on_the_way() {
        on_a_node(&[], async || {
            for command in [
                "ip link add up0 mtu 1500 type veth peer name p0 && ip link set up0 up && ip link set p0 up",
                "ip link add up1 mtu 1400 type veth peer name p1 && ip link set up1 up && ip link set p1 up",
                "ip address add 10.9.0.1/24 dev up0 && ip address add fd09::1/64 dev up0 nodad",
                "ip route add 10.8.0.0/24 dev up1 && ip -6 route add fd08::/64 dev up1",
                "ip route add 10.9.0.7 dev up0 mtu 1300 && ip -6 route add fd09::7 dev up0 mtu 1300",
                "ip route add 10.9.0.9 dev up0 mtu 9000",
            ] {
                shell(command);
            }
            let ways = ["10.9.0.2", "10.8.0.2", "10.9.0.7", "10.9.0.9", "10.7.0.1"];
            let found = mtus("10.9.0.1", &ways);
            assert_eq!(
                found,
                [Some(1500), Some(1400), Some(1300), Some(1500), None]
            );
            assert_eq!(
                mtus("fd09::1", &["fd09::2", "fd08::2", "fd09::7"]),
                [Some(1500), Some(1400), Some(1300)]
            );
            // What a router advertises counts for IPv6 alone.
            shell("echo 1450 > /proc/sys/net/ipv6/conf/up0/mtu");
            assert_eq!(mtus("fd09::1", &["fd09::2"]), [Some(1450)]);
            assert_eq!(mtus("10.9.0.1", &["10.9.0.2"]), [Some(1500)]);
        });
    }
}
