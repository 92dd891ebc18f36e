//! Without encapsulation: what goes to and comes from nodes that are reached so.

use oxlan::datapath::Program;
use oxlan_common::counters::DropReason::NoRoute;
use oxlan_common::counters::Verdict::{FromPeer, LocalPod, ToHost, ToPeer, ToVtep, TooBig};
use oxlan_common::maps::{Config, RouteKey, RouteValue, config_flags, route_flags};
use oxlan_tests::packet::{Ip, TCP, UDP, addr, udp};

use crate::case::{Case, Outcome};
use crate::world::{
    GATEWAY, MAC_A, OTHER_MAC, OVERLAY, POD_A, UPLINK, UPLINK_MAC, VTEP, World, config,
};

const FROM_POD: (Program, u32) = (Program::FromPod, POD_A);
const FROM_UPLINK: (Program, u32) = (Program::FromUplink, UPLINK);
const TO_OVERLAY: (Program, u32) = (Program::ToOverlay, OVERLAY);

/// A world in which nodes 2 and 3 are reached without encapsulation.
fn world() -> Option<World> {
    let world = World::new()?;
    let routes: Vec<(RouteKey, RouteValue)> = world.datapath.routes().entries().expect("routes");
    for (key, mut route) in routes {
        if route.flags & route_flags::LOCAL == 0 {
            route.flags |= route_flags::DIRECT;
            route.mtu = 1500;
        }
        world.datapath.routes().set(&key, &route).expect("a route");
    }
    let config = Config {
        flags: config_flags::DIRECT,
        ..config()
    };
    world.datapath.set_config(&config).expect("a configuration");
    Some(world)
}

fn ips(v4: [&str; 2], v6: [&str; 2]) -> [Ip; 2] {
    [v4, v6].map(|[src, dst]| Ip::new(src, dst, UDP))
}

fn later(ip: &Ip) -> Ip {
    Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    }
}

#[test]
fn pods_packets_leave_as_they_are() {
    let Some(world) = world() else { return };
    let payload = udp(1000, 53, b"hello");
    for ip in ips(["10.244.1.2", "10.244.2.9"], ["fd00:1::2", "fd00:2::9"]) {
        let sent = |ip: &Ip| ip.frame(GATEWAY, MAC_A, &payload);
        let row = |name, ip: &Ip, outcome| Case::new(name, FROM_POD, sent(ip), outcome);
        // The kernel writes the MACs of the next hop when it sends.
        let routed = later(&ip).frame(GATEWAY, MAC_A, &payload);
        let ends = Ip {
            ttl: 1,
            ..ip.clone()
        };
        world.check_all(&[
            row("to another node", &ip, Outcome::Done(ToPeer)).out(routed.clone()),
            row("an aggregate", &ip, Outcome::Done(ToPeer))
                .gso(1400)
                .out(routed),
            row("the last hop", &ends, Outcome::Done(ToHost)),
        ]);
        let large = ip.frame(GATEWAY, MAC_A, &udp(1000, 53, &[7; 1440]));
        let (_, packet) = world.run(&Case::new(
            "what would not fit with tunnel headers",
            FROM_POD,
            large.clone(),
            Outcome::Done(ToPeer),
        ));
        assert_eq!(packet.len(), large.len());
    }
    for ip in ips(["10.244.1.2", "10.244.3.9"], ["fd00:1::2", "fd00:3::9"]) {
        let sent = ip.frame(GATEWAY, MAC_A, &payload);
        world.check(&Case::new(
            "without a route the host answers",
            FROM_POD,
            sent,
            Outcome::Done(ToHost),
        ));
    }
}

#[test]
fn too_large_for_the_way_is_told() {
    let Some(world) = world() else { return };
    let ip = Ip {
        fragment: 0x4000,
        ..Ip::new("10.244.1.2", "10.244.2.9", TCP)
    };
    let sent = ip.frame(GATEWAY, MAC_A, &[0; 1481]);
    let case = Case::new("too large", FROM_POD, sent, Outcome::Done(TooBig));
    assert_eq!(world.counted(&case).1, [(TooBig.slot(), 1)]);
}

#[test]
fn plain_packets_of_other_nodes_pods_are_delivered() {
    let Some(world) = world() else { return };
    let payload = udp(53, 1000, b"hello");
    for ip in ips(["10.244.2.9", "10.244.1.2"], ["fd00:2::9", "fd00:1::2"]) {
        let came = |ip: &Ip| ip.frame(UPLINK_MAC, OTHER_MAC, &payload);
        let row = |name, ip: &Ip, outcome| Case::new(name, FROM_UPLINK, came(ip), outcome);
        let delivered = later(&ip).frame(MAC_A, GATEWAY, &payload);
        let ends = Ip {
            ttl: 1,
            ..ip.clone()
        };
        world.check_all(&[
            row("a pod's", &ip, Outcome::Done(FromPeer)).out(delivered.clone()),
            row("an aggregate of them", &ip, Outcome::Done(FromPeer))
                .gso(1400)
                .out(delivered),
            row("the last hop", &ends, Outcome::Done(ToHost)),
        ]);
    }
}

/// Everything else has to pass the host's own firewall.
#[test]
fn nothing_else_gets_past_the_host() {
    let Some(world) = world() else { return };
    let payload = udp(53, 1000, b"hello");
    let others = [
        ("from the world", "192.0.2.1", "10.244.1.2"),
        ("from another node itself", "10.9.0.2", "10.244.1.2"),
        (
            "with a pod of this node as source",
            "10.244.1.3",
            "10.244.1.2",
        ),
        ("from nobody's prefix", "10.244.9.9", "10.244.1.2"),
        ("to this node's overlay address", "10.244.2.9", "10.244.1.0"),
        ("to nobody here", "10.244.2.9", "10.244.1.77"),
        ("to this node", "10.244.2.9", "10.9.0.1"),
        ("from the world, IPv6", "2001:db8::1", "fd00:1::2"),
    ];
    for (name, src, dst) in others {
        let frame = Ip::new(src, dst, UDP).frame(UPLINK_MAC, OTHER_MAC, &payload);
        world.check(&Case::new(name, FROM_UPLINK, frame, Outcome::NotOurs));
    }
    let ip = Ip::new("10.244.2.9", "10.244.1.2", UDP);
    let frame = ip.frame(UPLINK_MAC, OTHER_MAC, &payload);
    let broken = Ip {
        lie: 100,
        ..ip.clone()
    };
    let broken = broken.frame(UPLINK_MAC, OTHER_MAC, &payload);
    world.check(&Case::new(
        "a broken one",
        FROM_UPLINK,
        broken,
        Outcome::NotOurs,
    ));
    // One that is still reached by VXLAN may take this node for a neighbour already.
    let key = RouteKey {
        prefix: addr("10.244.2.0"),
        prefix_len: 96 + 24,
    };
    let routes = world.datapath.routes().entries().expect("routes");
    let (_, mut route) = routes
        .into_iter()
        .find(|(k, _)| *k == key)
        .expect("a route");
    route.flags &= !route_flags::DIRECT;
    world.datapath.routes().set(&key, &route).expect("a route");
    world.check(&Case::new(
        "too early",
        FROM_UPLINK,
        frame.clone(),
        Outcome::Done(ToHost),
    ));
    // Where everything is encapsulated, nobody looks.
    world
        .datapath
        .set_config(&config())
        .expect("a configuration");
    world.check(&Case::new(
        "VXLAN only",
        FROM_UPLINK,
        frame,
        Outcome::NotOurs,
    ));
}

#[test]
fn the_hosts_packets_go_the_same_way() {
    let Some(world) = world() else { return };
    let payload = udp(1, 53, b"hello");
    for (src, far, gone) in [
        ("10.244.1.0", "10.244.2.9", "10.244.3.9"),
        ("fd00:1::", "fd00:2::9", "fd00:3::9"),
    ] {
        let sent = |dst| Ip::new(src, dst, UDP).frame(VTEP[1], VTEP[1], &payload);
        let row = |name, dst, outcome| Case::new(name, TO_OVERLAY, sent(dst), outcome);
        world.check_all(&[
            row("another node's pod", far, Outcome::Done(ToPeer)),
            row("a node without a route", gone, Outcome::Dropped(NoRoute)),
        ]);
    }
}

#[test]
fn what_does_not_go_there_is_as_ever() {
    let Some(world) = world() else { return };
    let payload = udp(1, 53, b"hello");
    let local = Ip::new("10.244.1.2", "10.244.1.3", UDP);
    let frame = local.frame(GATEWAY, MAC_A, &payload);
    let (returned, _) = world.run(&Case::new(
        "local",
        FROM_POD,
        frame,
        Outcome::Done(LocalPod),
    ));
    assert_eq!(returned, crate::case::REDIRECT);
    // A tunnel packet is taken from whoever still sends it.
    let key = RouteKey {
        prefix: addr("10.244.2.0"),
        prefix_len: 96 + 24,
    };
    let routes = world.datapath.routes().entries().expect("routes");
    let (_, mut route) = routes
        .into_iter()
        .find(|(k, _)| *k == key)
        .expect("a route");
    route.flags = 0;
    world.datapath.routes().set(&key, &route).expect("a route");
    let tunnelled = Ip::new("10.244.1.2", "10.244.2.9", UDP).frame(GATEWAY, MAC_A, &payload);
    let tunnel = Case::new("tunnel", FROM_POD, tunnelled, Outcome::Done(ToVtep));
    assert_eq!(world.counted(&tunnel).1, [(ToVtep.slot(), 1)]);
}
