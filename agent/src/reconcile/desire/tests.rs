//! What follows from a cluster of two nodes.

mod modes;

use std::collections::HashMap;

use super::*;
use crate::cluster;
use crate::host::paths::{NextHop, Path, Share};
use oxlan_common::addr::Mac;

const CLUSTER: &str = r#"
[network]
pod_cidrs = ["10.244.0.0/16", "fd00:10:244::/48"]
vni = 7

[[node]]
name = "a"
pod_cidrs = ["10.244.1.0/24", "fd00:10:244:1::/64"]
underlay = "192.168.50.1"

[[node]]
name = "b"
pod_cidrs = ["10.244.2.0/25", "fd00:10:244:2::/64"]
underlay = "192.168.50.2"

[[node]]
name = "c"
pod_cidrs = ["10.244.3.0/24"]
underlay = "192.168.60.3"

[[node]]
name = "both"
pod_cidrs = ["10.244.4.0/24", "fd00:10:244:4::/64"]
underlay = ["192.168.50.4", "fd00:50::4"]

[[node]]
name = "v6"
pod_cidrs = ["10.244.5.0/24", "fd00:10:244:5::/64"]
underlay = "fd00:50::5"
"#;

fn with_facts<T>(node: &str, test: impl FnOnce(&Facts<'_>) -> T) -> T {
    with_mode(Mode::Vxlan, node, test)
}

fn with_mode<T>(mode: Mode, node: &str, test: impl FnOnce(&Facts<'_>) -> T) -> T {
    let mut cluster = cluster::parse(CLUSTER, node).unwrap();
    cluster.network.mode = mode;
    let pods = [DesiredPod {
        host_ifname: "oxl1".into(),
        host_ifindex: 9,
        mac: Mac::new([0x0a, 0x58, 10, 244, 1, 2]),
        host_mac: Mac::new([0x0e, 0x6f, 0x78, 0x6c, 0x61, 0x6e]),
        netns_id: Some(3),
        addresses: vec![
            "10.244.1.2".parse().unwrap(),
            "fd00:10:244:1::2".parse().unwrap(),
        ],
        mtu: 1450,
        limit: None,
        flags: 0,
    }];
    test(&Facts {
        own: cluster.node(node).unwrap(),
        cluster: &cluster,
        uplinks: vec![Uplink {
            name: "eth0",
            ifindex: 2,
            mtu: 1500,
            mac: Mac::new([2, 0, 0, 0, 0, 2]),
            ethernet: true,
            xdp: false,
            accepts_ra: false,
        }],
        ways: &ways(),
        mtu: 1450,
        tunnel_mtu: 1450,
        max_hop_sets: 128,
        pods: &pods,
    })
}

fn hop(address: &str, ifindex: u32) -> NextHop {
    NextHop {
        ifindex,
        address: address.parse().unwrap(),
    }
}

fn path(address: &str) -> Option<Path> {
    Some(Path {
        hop: hop(address, 2),
        shares: Vec::new(),
        down: Vec::new(),
        mtu: Some(1500),
        expires: None,
    })
}

fn ways() -> Ways {
    Ways {
        nodes: HashMap::from([
            ("192.168.50.2".parse().unwrap(), path("192.168.50.2")),
            ("192.168.60.3".parse().unwrap(), None),
            ("fd00:50::5".parse().unwrap(), path("fd00:50::ff")),
        ]),
        prefixes: HashMap::new(),
    }
}

#[test]
fn pods_get_what_vxlan_leaves() {
    let of = |uplink_mtu, node| {
        with_facts(node, |facts| {
            let whole = pod_mtu(uplink_mtu, facts.own, Mode::Direct);
            assert_eq!(whole, u16::try_from(uplink_mtu).unwrap_or(u16::MAX));
            let mtu = pod_mtu(uplink_mtu, facts.own, Mode::Vxlan);
            assert_eq!(mtu, pod_mtu(uplink_mtu, facts.own, Mode::Auto));
            mtu
        })
    };
    assert_eq!(of(1500, "a"), 1450);
    assert_eq!(of(1500, "both"), 1430, "IPv6 may be used");
    assert_eq!(of(1500, "v6"), 1430);
    assert_eq!(of(9000, "a"), 8950);
    assert_eq!(of(65_536, "a"), 65_485);
    assert_eq!(of(1300, "a"), 1280, "IPv6 needs it");
    assert_eq!(of(1300, "c"), 1250, "without IPv6");
    assert_eq!(of(20, "c"), 0);
}

/// Only a way that is narrower than the overlay device needs a route of the host's own.
#[test]
fn a_narrow_way_has_its_mtu_in_the_map_and_in_a_route() {
    let with_way = |mtu: u32| {
        with_facts("a", |facts| {
            let mut ways = facts.ways.clone();
            let to = "192.168.50.2".parse().unwrap();
            let narrow = Path {
                mtu: Some(mtu),
                ..path("192.168.50.2").unwrap()
            };
            ways.nodes.insert(to, Some(narrow));
            let facts = Facts {
                ways: &ways,
                ..facts.clone()
            };
            let (tables, host) = (tables(&facts, 5), host(&facts));
            ["10.244.2.0/25", "fd00:10:244:2::/64"].map(|prefix| {
                let prefix = prefix.parse().unwrap();
                let in_map = tables.routes[&route_key(&prefix)].mtu;
                (in_map, host.routes.get(&(prefix, 0)).map(Via::to_string))
            })
        })
    };
    let [v4, v6] = with_way(1400);
    let source = "dev oxlan0 src 10.244.1.0 mtu 1350";
    assert_eq!(v4, (1350, Some(source.into())));
    let source = "dev oxlan0 src fd00:10:244:1:: mtu 1350";
    assert_eq!(v6, (1350, Some(source.into())));
    let [v4, v6] = with_way(1300);
    assert_eq!(v4.0, 1250);
    let source = "dev oxlan0 src fd00:10:244:1:: mtu 1280";
    assert_eq!(v6, (1250, Some(source.into())), "the host is not told less");
    assert_eq!(with_way(1500), [(1450, None), (1450, None)]);
    assert_eq!(with_way(9000), [(8950, None), (8950, None)]);
}

/// Nobody fragments VXLAN over IPv6, so there IPv6 packets of pods may have no room; IPv4 ones are refused or cut.
#[test]
fn a_way_over_ipv6_can_be_too_narrow_for_ipv6() {
    let too_narrow = |to: &str, prefix: &str, mtu| {
        with_facts("both", |facts| {
            let mut ways = facts.ways.clone();
            let way = Path {
                mtu: Some(mtu),
                ..path(to).unwrap()
            };
            ways.nodes.insert(to.parse().unwrap(), Some(way));
            let facts = Facts {
                ways: &ways,
                ..facts.clone()
            };
            let prefix = prefix.parse().unwrap();
            let node = facts.others().find(|n| n.pod_cidrs.contains(&prefix));
            facts.is_too_narrow(node.unwrap(), &prefix)
        })
    };
    let over_v6 = "fd00:50::5";
    assert!(too_narrow(over_v6, "fd00:10:244:5::/64", 1349));
    assert!(!too_narrow(over_v6, "fd00:10:244:5::/64", 1350));
    assert!(!too_narrow(over_v6, "10.244.5.0/24", 1300));
    assert!(!too_narrow("192.168.50.2", "fd00:10:244:2::/64", 1300));
}

#[test]
fn each_family_of_pods_goes_over_the_underlay_that_both_nodes_have() {
    let way = |own: &str, prefix: &str| {
        with_facts(own, |facts| {
            let tables = tables(facts, 5);
            let route = tables.routes[&route_key(&prefix.parse().unwrap())];
            (route.underlay.to_string(), route.flags)
        })
    };
    let unreachable = route_flags::UNREACHABLE;
    assert_eq!(way("both", "10.244.2.0/25"), ("192.168.50.2".into(), 0));
    assert_eq!(way("both", "10.244.5.0/24"), ("fd00:50::5".into(), 0));
    assert_eq!(way("both", "fd00:10:244:5::/64"), ("fd00:50::5".into(), 0));
    assert_eq!(
        way("a", "fd00:10:244:4::/64"),
        ("192.168.50.4".into(), unreachable),
        "there is no path"
    );
    assert_eq!(
        way("a", "10.244.5.0/24"),
        ("fd00:50::5".into(), unreachable),
        "there is no family in common"
    );
}

#[test]
fn a_node_with_two_addresses_is_known_by_either() {
    with_facts("a", |facts| {
        let vteps = tables(facts, 5).vteps;
        let other = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            vteps[&Addr::from(address)].other.to_string()
        };
        assert_eq!(other("192.168.50.4"), "fd00:50::4");
        assert_eq!(other("fd00:50::4"), "192.168.50.4");
        assert_eq!(other("192.168.50.2"), "192.168.50.2");
    });
}

#[test]
fn the_programs_know_the_own_address_of_each_family() {
    let own = |node: &str| {
        with_facts(node, |facts| {
            let config = tables(facts, 5).config;
            [config.underlay_v4, config.underlay_v6].map(|a| a.to_string())
        })
    };
    assert_eq!(own("a"), ["192.168.50.1", "::"]);
    assert_eq!(own("both"), ["192.168.50.4", "fd00:50::4"]);
    assert_eq!(own("v6"), ["::", "fd00:50::5"]);
}

#[test]
fn routes_do_not_depend_on_how_many_nodes_there_are() {
    with_facts("a", |facts| {
        let routes = host(facts).routes;
        let words: Vec<String> = routes
            .iter()
            .map(|((to, metric), via)| format!("{to} {via} {metric}"))
            .collect();
        assert_eq!(
            words,
            [
                "10.244.0.0/16 dev oxlan0 src 10.244.1.0 0",
                "10.244.1.0/24 unreachable 4096",
                "10.244.1.2/32 dev oxl1 src 10.244.1.0 0",
                "fd00:10:244::/48 dev oxlan0 src fd00:10:244:1:: 0",
                "fd00:10:244:1::/64 unreachable 4096",
                "fd00:10:244:1::2/128 dev oxl1 src fd00:10:244:1:: 0",
            ]
        );
    });
}

#[test]
fn a_node_without_ipv6_pods_has_nothing_of_ipv6() {
    with_facts("c", |facts| {
        let facts = Facts {
            pods: &[],
            ..facts.clone()
        };
        let host = host(&facts);
        assert!(host.routes.keys().all(|(to, _)| matches!(to, IpNet::V4(_))));
        assert!(host.sysctls.iter().all(|s| !s.key.contains("ipv6")));
    });
}

#[test]
fn router_advertisements_go_on_working_where_they_did() {
    with_facts("a", |facts| {
        let accepts = |facts: &Facts<'_>| {
            let sysctls = host(facts).sysctls;
            sysctls
                .into_iter()
                .find(|s| s.key == "net/ipv6/conf/eth0/accept_ra")
                .map(|s| s.value)
        };
        assert_eq!(accepts(facts), None);
        let mut uplinks = facts.uplinks.clone();
        uplinks[0].accepts_ra = true;
        let facts = Facts {
            uplinks,
            ..facts.clone()
        };
        assert_eq!(accepts(&facts), Some("2"));
    });
}

#[test]
fn the_host_too_leaves_out_equal_next_hops_behind_a_link_that_is_down() {
    let asked_for = |to: &str| {
        let mut ways = ways();
        let share = |ifindex| Share {
            hop: hop("fe80::1", ifindex),
            weight: 1,
        };
        let several = Path {
            shares: vec![share(2), share(3)],
            ..path("fe80::1").unwrap()
        };
        ways.nodes.insert(to.parse().unwrap(), Some(several));
        with_facts("both", |facts| {
            let facts = Facts {
                ways: &ways,
                ..facts.clone()
            };
            let sysctls = host(&facts).sysctls.into_iter();
            let keys = sysctls
                .map(|s| s.key)
                .filter(|key| key.contains("linkdown"));
            keys.collect::<Vec<_>>()
        })
    };
    let key = |family| format!("net/{family}/conf/eth0/ignore_routes_with_linkdown");
    assert_eq!(asked_for("192.168.50.2"), [key("ipv4")]);
    assert_eq!(asked_for("fd00:50::5"), [key("ipv6")]);
    with_facts("both", |facts| {
        let sysctls = host(facts).sysctls;
        assert!(sysctls.iter().all(|s| !s.key.contains("linkdown")));
    });
}

#[test]
fn maps_know_every_node_and_who_cannot_be_reached() {
    with_facts("a", |facts| {
        let tables = tables(facts, 5);
        let flags: Vec<(String, u16)> = tables
            .routes
            .iter()
            .map(|(key, value)| (super::super::tables::prefix_in_words(key), value.flags))
            .collect();
        let flag = |prefix: &str| flags.iter().find(|(p, _)| p == prefix).unwrap().1;
        assert_eq!(flags.len(), 9);
        assert_eq!(flag("10.244.1.0/24"), route_flags::LOCAL);
        assert_eq!(flag("10.244.2.0/25"), 0);
        assert_eq!(flag("10.244.3.0/24"), route_flags::UNREACHABLE);
        assert_eq!(tables.vteps.len(), 5, "not the own node");
        assert_eq!(tables.config.vni, 7);
        assert_eq!(tables.config.prefix_lens_v4, [121, 120, 0, 0, 0, 0, 0, 0]);
        assert_eq!(tables.config.prefix_lens_v6, [64, 0, 0, 0, 0, 0, 0, 0]);
        let own = tables.pods[&Addr::from_v4([10, 244, 1, 0])];
        assert_eq!((own.ifindex, own.flags), (5, pod_flags::HOST));
        assert_eq!(tables.pods[&Addr::from_v4([10, 244, 1, 2])].ifindex, 9);
        assert_eq!(tables.pods.len(), 4);
    });
}

#[test]
fn programs_run_where_there_are_devices() {
    with_facts("a", |facts| {
        let names = |filters: BTreeSet<Filter>| -> Vec<String> {
            let name = |f: &Filter| format!("{} {} {}", f.program.name(), f.ifname, f.ifindex);
            filters.iter().map(name).collect()
        };
        assert_eq!(
            names(filters(facts, 5, &[])),
            [
                "from_pod oxl1 9",
                "to_pod oxl1 9",
                "from_uplink eth0 2",
                "from_overlay oxlan0 5",
                "to_overlay oxlan0 5"
            ]
        );
        let mut several = facts.clone();
        let second = Uplink {
            name: "eth1",
            ifindex: 3,
            ..facts.uplinks[0]
        };
        let tunnel = Uplink {
            name: "wg0",
            ifindex: 4,
            ethernet: false,
            ..second
        };
        several.uplinks.extend([second, tunnel]);
        let uplinks = names(filters(&several, 5, &[]));
        let uplinks = uplinks.iter().filter(|n| n.starts_with("from_uplink"));
        assert!(uplinks.eq(["from_uplink eth0 2", "from_uplink eth1 3"]));
        let facts = Facts {
            uplinks: Vec::new(),
            ..facts.clone()
        };
        assert_eq!(
            names(filters(&facts, 5, &["oxl1".into()])),
            ["from_overlay oxlan0 5", "to_overlay oxlan0 5"]
        );
    });
}

/// What becomes of a prefix of another node in a mode: flags and next hop; and the host's own route.
fn way_in(mode: Mode, ways: &Ways, prefix: &str) -> (u16, String, String) {
    way_of("a", mode, ways, prefix)
}

/// The same, seen from another node.
fn way_of(node: &str, mode: Mode, ways: &Ways, prefix: &str) -> (u16, String, String) {
    with_mode(mode, node, |facts| {
        let facts = Facts {
            ways,
            ..facts.clone()
        };
        let prefix: IpNet = prefix.parse().unwrap();
        let value = tables(&facts, 5).routes[&route_key(&prefix)];
        let via = host(&facts).routes.get(&(prefix, 0)).map(Via::to_string);
        let via = via.unwrap_or_default();
        (value.flags, value.next_hop.to_string(), via)
    })
}

/// Ways to more nodes: all underlay addresses of the cluster, on the link or behind gateways.
fn all_ways(nodes: &[(&str, &str)], prefixes: &[(&str, &str)]) -> Ways {
    let nodes = nodes
        .iter()
        .map(|(to, via)| (to.parse().unwrap(), path(via)));
    let prefixes = prefixes
        .iter()
        .map(|(to, via)| (to.parse().unwrap(), path(via)));
    Ways {
        nodes: nodes.collect(),
        prefixes: prefixes.collect(),
    }
}
