//! What is encapsulated and what is not, by the mode of the network.

use super::*;

const DIRECT: u16 = route_flags::DIRECT;

#[test]
fn neighbours_are_reached_without_encapsulation_if_that_is_wanted() {
    let ways = all_ways(
        &[
            ("192.168.50.2", "192.168.50.2"),
            ("192.168.60.3", "192.168.50.254"),
            ("192.168.50.4", "192.168.50.4"),
        ],
        &[],
    );
    let near = "10.244.2.0/25";
    let auto = way_in(Mode::Auto, &ways, near);
    let kernels = "via 192.168.50.2 dev eth0 src 10.244.1.0".to_owned();
    assert_eq!(auto, (DIRECT, "192.168.50.2".into(), kernels));
    let vxlan = way_in(Mode::Vxlan, &ways, near);
    assert_eq!(vxlan, (0, "192.168.50.2".into(), String::new()));
    let far = way_in(Mode::Auto, &ways, "10.244.3.0/24");
    assert_eq!(far, (0, "192.168.50.254".into(), String::new()), "a router");
    // An IPv6 packet cannot go to an IPv4 next hop.
    let other = way_in(Mode::Auto, &ways, "fd00:10:244:4::/64");
    assert_eq!(other, (0, "192.168.50.4".into(), String::new()));
    let gone = way_in(Mode::Auto, &ways, "10.244.5.0/24");
    let unreachable = route_flags::UNREACHABLE;
    assert_eq!(gone, (unreachable, "::".into(), String::new()));
}

/// Of a node with both families, each prefix has the neighbour of its own one; of one with IPv6 alone, IPv6 has it.
#[test]
fn neighbours_over_ipv6_take_ipv6_without_encapsulation() {
    let ways = all_ways(
        &[
            ("192.168.50.1", "192.168.50.1"),
            ("192.168.50.4", "192.168.50.4"),
            ("fd00:50::4", "fd00:50::4"),
            ("fd00:50::5", "fd00:50::5"),
        ],
        &[],
    );
    let auto = |node, prefix| {
        let (flags, next_hop, via) = way_of(node, Mode::Auto, &ways, prefix);
        assert_eq!(via.starts_with("via "), flags == DIRECT, "{via}");
        (flags, next_hop)
    };
    let both = "fd00:50::4".to_owned();
    assert_eq!(auto("v6", "fd00:10:244:4::/64"), (DIRECT, both.clone()));
    assert_eq!(auto("v6", "10.244.4.0/24"), (0, both), "in VXLAN");
    let v6 = "fd00:50::5".to_owned();
    assert_eq!(auto("both", "fd00:10:244:5::/64"), (DIRECT, v6.clone()));
    assert_eq!(auto("both", "10.244.5.0/24"), (0, v6), "in VXLAN");
    let v4 = "192.168.50.1".to_owned();
    assert_eq!(auto("both", "10.244.1.0/24"), (DIRECT, v4.clone()));
    assert_eq!(auto("both", "fd00:10:244:1::/64"), (0, v4), "in VXLAN");
}

#[test]
fn a_link_that_is_no_ethernet_is_no_neighbourhood() {
    let ways = all_ways(&[("192.168.50.2", "192.168.50.2")], &[]);
    with_mode(Mode::Auto, "a", |facts| {
        let mut facts = Facts {
            ways: &ways,
            ..facts.clone()
        };
        facts.uplinks[0].ethernet = false;
        let key = route_key(&"10.244.2.0/25".parse().unwrap());
        assert_eq!(tables(&facts, 5).routes[&key].flags, 0);
    });
}

#[test]
fn in_direct_mode_only_routes_of_others_count() {
    let ways = all_ways(
        &[("192.168.50.2", "192.168.50.2")],
        &[
            ("10.244.3.0/24", "192.168.50.254"),
            ("fd00:10:244:4::/64", "fe80::4"),
        ],
    );
    let unrouted = DIRECT | route_flags::UNREACHABLE;
    let none = String::new;
    let way = |prefix| way_in(Mode::Direct, &ways, prefix);
    assert_eq!(way("10.244.2.0/25"), (unrouted, "::".into(), none()));
    assert_eq!(
        way("10.244.3.0/24"),
        (DIRECT, "192.168.50.254".into(), none())
    );
    assert_eq!(
        way("fd00:10:244:4::/64"),
        (DIRECT, "fe80::4".into(), none())
    );
    with_mode(Mode::Direct, "a", |facts| {
        let routes = host(facts).routes;
        let whole = ("10.244.0.0/16".parse().unwrap(), UNREACHABLE_METRIC);
        assert_eq!(routes[&whole], Via::Unreachable);
        let onto_overlay = |via: &&Via| matches!(via, Via::Device { name, .. } if name == OVERLAY);
        assert_eq!(routes.values().find(onto_overlay), None);
    });
}

#[test]
fn plain_packets_are_expected_unless_everything_is_encapsulated() {
    let flags = |mode| with_mode(mode, "a", |facts| tables(facts, 5).config.flags);
    assert_eq!(flags(Mode::Vxlan), 0);
    assert_eq!(flags(Mode::Auto), config_flags::DIRECT);
    assert_eq!(flags(Mode::Direct), config_flags::DIRECT);
}

#[test]
fn a_direct_route_has_the_whole_mtu_of_its_path() {
    let mut ways = all_ways(&[], &[("10.244.3.0/24", "192.168.50.254")]);
    let prefix = "10.244.3.0/24".parse().unwrap();
    let mtu = |ways: &Ways| {
        with_mode(Mode::Direct, "a", |facts| {
            let facts = Facts {
                ways,
                ..facts.clone()
            };
            tables(&facts, 5).routes[&route_key(&prefix)].mtu
        })
    };
    assert_eq!(mtu(&ways), 1500);
    if let Some(Some(path)) = ways.prefixes.get_mut(&prefix) {
        path.mtu = Some(1400);
    }
    assert_eq!(mtu(&ways), 1400);
}
