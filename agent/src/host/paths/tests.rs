//! The kernel's answers, in a network namespace of each test's own.

use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::pods::tests::fixture::{on_a_node, shell, skip};

const UNDERLAY: &str = "
    ip link add up0 type veth peer name sw0 && ip link add up1 type veth peer name sw1
    for d in lo up0 up1 sw0 sw1; do ip link set $d up; done
    ip address add 192.0.2.1/32 dev lo && ip address add 2001:db8::1/128 dev lo nodad
    ip address add 10.0.0.1/24 dev up0 && ip address add 10.1.0.1/24 dev up1
    ip address add fd00:0::1/64 dev up0 nodad && ip address add fd00:1::1/64 dev up1 nodad
";

/// Runs a test in a namespace with two uplinks and an underlay address of each family on `lo`.
fn with_two_uplinks(test: impl FnOnce(&mut Rtnl) + Send) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let run = || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            skip(
                &name,
                &format!("a network namespace cannot be made ({error}): run it as root"),
            );
            return;
        }
        shell(UNDERLAY);
        test(&mut Rtnl::open().unwrap());
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn way_to(rtnl: &mut Rtnl, to: &str) -> Option<Path> {
    let to = address(to);
    let source = address(if to.is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8::1"
    });
    let mut found = to_addresses(rtnl, source, &[to]).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// Next hops as `GATEWAY%DEVICE*WEIGHT`, a single one without a weight.
fn words(path: Option<&Path>) -> String {
    let Some(path) = path else {
        return "none".to_owned();
    };
    let name = |hop: &NextHop| {
        let names = ["lo", "up0", "up1", "sw0", "sw1"];
        let named = |n: &&str| if_nametoindex(*n) == Ok(hop.ifindex);
        let device = names.into_iter().find(named).unwrap();
        format!("{}%{device}", hop.address)
    };
    if path.shares.is_empty() {
        return name(&path.hop);
    }
    assert_eq!(path.hop, path.shares[0].hop);
    let mut all: Vec<String> = path
        .shares
        .iter()
        .map(|s| format!("{}*{}", name(&s.hop), s.weight))
        .collect();
    all.sort();
    all.join(" ")
}

#[track_caller]
fn expect_way(rtnl: &mut Rtnl, to: &str, wanted: &str) {
    let found = way_to(rtnl, to);
    assert_eq!(words(found.as_ref()), wanted, "the way to {to}");
}

/// The kernel tells its routes of a lost carrier a moment later.
#[track_caller]
fn wait_for_way(rtnl: &mut Rtnl, to: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while words(way_to(rtnl, to).as_ref()) != wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    expect_way(rtnl, to, wanted);
}

#[test]
fn a_node_is_on_the_link_or_behind_a_gateway() {
    with_two_uplinks(|rtnl| {
        shell("ip route add 198.51.100.0/24 via 10.0.0.9");
        expect_way(rtnl, "10.0.0.2", "10.0.0.2%up0");
        expect_way(rtnl, "198.51.100.2", "10.0.0.9%up0");
        expect_way(rtnl, "fd00:1::2", "fd00:1::2%up1");
        expect_way(rtnl, "203.0.113.1", "none");
        let on_link = |path: Option<Path>, to| path.unwrap().is_on_link(address(to));
        assert!(on_link(way_to(rtnl, "10.0.0.2"), "10.0.0.2"));
        assert!(!on_link(way_to(rtnl, "198.51.100.2"), "198.51.100.2"));
        shell("ip route add unreachable 198.51.100.7/32");
        expect_way(rtnl, "198.51.100.7", "none");
    });
}

#[test]
fn all_next_hops_of_a_multipath_route_are_known_with_their_weights() {
    with_two_uplinks(|rtnl| {
        shell(
            "ip route add 198.51.100.0/24 nexthop via 10.0.0.9 weight 3 nexthop via 10.1.0.9
             ip route add 2001:db8:5::/64 nexthop via fd00:0::9 nexthop via fd00:1::9 weight 2
             ip route add 203.0.113.0/24 nexthop via inet6 fd00:0::9 dev up0 nexthop via 10.1.0.9",
        );
        expect_way(rtnl, "198.51.100.2", "10.0.0.9%up0*3 10.1.0.9%up1*1");
        expect_way(rtnl, "2001:db8:5::2", "fd00:1::9%up1*2 fd00::9%up0*1");
        expect_way(rtnl, "203.0.113.2", "10.1.0.9%up1*1 fd00::9%up0*1");
    });
}

#[test]
fn a_next_hop_without_a_link_is_left_out_while_there_is_another() {
    with_two_uplinks(|rtnl| {
        shell("ip route add 198.51.100.0/24 nexthop via 10.0.0.9 nexthop via 10.1.0.9");
        let both = "10.0.0.9%up0*1 10.1.0.9%up1*1";
        expect_way(rtnl, "198.51.100.2", both);
        shell("ip link set sw0 down");
        wait_for_way(rtnl, "198.51.100.2", "10.1.0.9%up1");
        shell("ip link set sw1 down");
        wait_for_way(rtnl, "198.51.100.2", both);
        shell("ip link set sw0 up && ip link set sw1 up");
        wait_for_way(rtnl, "198.51.100.2", both);
        shell("ip link set up1 down");
        expect_way(rtnl, "198.51.100.2", "10.0.0.9%up0");
    });
}

#[test]
fn next_hop_objects_are_next_hops() {
    with_two_uplinks(|rtnl| {
        shell(
            "ip nexthop add id 1 via 10.0.0.9 dev up0 && ip nexthop add id 2 via 10.1.0.9 dev up1
             ip nexthop add id 10 group 1,2/2,5
             ip route add 198.51.100.0/24 nhid 10 && ip route add 203.0.113.0/24 nhid 1",
        );
        expect_way(rtnl, "198.51.100.2", "10.0.0.9%up0*2 10.1.0.9%up1*5");
        expect_way(rtnl, "203.0.113.2", "10.0.0.9%up0");
        // Routing daemons at scale have the kernel tell the object's number alone.
        shell("sysctl -qw net.ipv4.nexthop_compat_mode=0");
        expect_way(rtnl, "203.0.113.2", "10.0.0.9%up0");
    });
}

#[test]
fn policy_rules_decide_by_the_source() {
    with_two_uplinks(|rtnl| {
        shell(
            "ip route add 198.51.100.0/24 via 10.0.0.9
             ip route add 198.51.100.0/24 table 7 nexthop via 10.1.0.9 nexthop via 10.1.0.8
             ip rule add from 192.0.2.1 table 7",
        );
        expect_way(rtnl, "198.51.100.2", "10.1.0.8%up1*1 10.1.0.9%up1*1");
        let mut other =
            to_addresses(rtnl, address("10.0.0.1"), &[address("198.51.100.2")]).unwrap();
        assert_eq!(words(other.remove(0).as_ref()), "10.0.0.9%up0");
    });
}

#[test]
fn only_somebody_elses_route_with_a_gateway_leads_to_a_prefix() {
    with_two_uplinks(|rtnl| {
        shell(
            "ip route add default via 10.0.0.254
             ip route add 10.244.2.0/24 via 10.0.0.2 proto 12
             ip route add 10.244.3.0/24 via 10.0.0.3 proto 79
             ip route add 10.245.0.0/16 via 10.1.0.9 proto static
             ip route add 10.244.4.0/25 via 10.0.0.4
             ip route add 10.244.5.0/24 dev up1
             ip route add unreachable 10.244.6.0/24
             ip route add 10.244.7.0/24 nexthop via 10.0.0.9 nexthop via 10.1.0.9
             ip route add fd00:244:2::/64 via fe80::9 dev up1 proto 12",
        );
        let prefixes = [
            ("10.244.1.0/24", "none"),
            ("10.244.2.0/24", "10.0.0.2%up0"),
            ("10.244.3.0/24", "none"),
            ("10.245.7.0/24", "10.1.0.9%up1"),
            ("10.244.4.0/24", "none"),
            ("10.244.5.0/24", "none"),
            ("10.244.6.0/24", "none"),
            ("10.244.7.0/24", "10.0.0.9%up0*1 10.1.0.9%up1*1"),
            ("fd00:244:2::/64", "fe80::9%up1"),
        ];
        let asked: Vec<IpNet> = prefixes.iter().map(|(p, _)| p.parse().unwrap()).collect();
        let found = to_prefixes(rtnl, |_| None, &asked).unwrap();
        for ((prefix, wanted), found) in prefixes.iter().zip(&found) {
            assert_eq!(words(found.as_ref()), *wanted, "the way to {prefix}");
        }
    });
}

/// The MTU of the way to each destination.
fn mtus(source: &str, destinations: &[&str]) -> Vec<Option<u32>> {
    let parse = |text: &&str| text.parse::<IpAddr>().unwrap();
    let destinations: Vec<_> = destinations.iter().map(parse).collect();
    let mut rtnl = Rtnl::open().unwrap();
    let paths = to_addresses(&mut rtnl, source.parse().unwrap(), &destinations).unwrap();
    paths.into_iter().map(|path| path?.mtu).collect()
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

#[test]
fn the_narrowest_of_several_next_hops_decides() {
    with_two_uplinks(|rtnl| {
        shell(
            "ip link set up1 mtu 1400
             ip route add 198.51.100.0/24 nexthop via 10.0.0.9 nexthop via 10.1.0.9
             ip route add 198.51.100.7 mtu 1300 nexthop via 10.0.0.9 nexthop via 10.1.0.9",
        );
        assert_eq!(way_to(rtnl, "198.51.100.2").unwrap().mtu, Some(1400));
        assert_eq!(way_to(rtnl, "198.51.100.7").unwrap().mtu, Some(1300));
        assert_eq!(way_to(rtnl, "10.0.0.2").unwrap().mtu, Some(1500));
    });
}
