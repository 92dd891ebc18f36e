//! Routes with several next hops. What a test run of a program does not show is which one it takes; with
//! real traffic `netns::equal_paths` sees it, and the choice itself is tested in `oxlan_common::decide`.

use bytemuck::Zeroable as _;
use oxlan::datapath::Program;
use oxlan_common::addr::Addr;
use oxlan_common::counters::Verdict::{FromPeer, ToHost, ToPeer, ToVtep};
use oxlan_common::maps::{Config, HOP_BUCKETS, Hop, HopsValue, config_flags, route_flags};
use oxlan_tests::packet::{Ip, UDP, addr, checked, udp};

use crate::case::{Case, NEXT, Outcome, REDIRECT};
use crate::from_uplink::pin_to_one_cpu;
use crate::world::{
    GATEWAY, MAC_A, OTHER_MAC, POD_A, POD_B, UPLINK, UPLINK_MAC, VTEP, World, config,
};

const FROM_POD: (Program, u32) = (Program::FromPod, POD_A);

/// Number of the set.
const SET: u32 = 0x0a0b_0c0d;

/// A second device that leads to other nodes.
const SECOND: u32 = POD_B;

/// A world in which all other nodes are behind two next hops, and have these flags besides.
fn world(flags: u16) -> Option<World> {
    let world = World::new()?;
    let mut set = HopsValue::zeroed();
    set.hops[0] = Hop {
        address: Addr::UNSPECIFIED,
        ifindex: UPLINK,
    };
    set.hops[1] = Hop {
        address: addr("10.60.0.1"),
        ifindex: SECOND,
    };
    set.buckets[HOP_BUCKETS / 2..].fill(1);
    world.datapath.hops().set(&SET, &set).expect("a set");
    for (key, mut route) in world.datapath.routes().entries().expect("routes") {
        if route.flags & route_flags::LOCAL == 0 {
            route.flags |= flags;
            route.hops = SET;
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

/// Pod A's datagram by the flow with this source port.
fn datagram(dst: &str, port: u16) -> Vec<u8> {
    let src = if dst.contains(':') {
        "fd00:1::2"
    } else {
        "10.244.1.2"
    };
    let ip = Ip::new(src, dst, UDP);
    ip.frame(GATEWAY, MAC_A, &checked(&ip, udp(port, 53, b"hello")))
}

#[test]
fn packets_are_sent_on_by_whichever_next_hop() {
    for (flags, verdict) in [(0, ToVtep), (route_flags::DIRECT, ToPeer)] {
        let Some(world) = world(flags) else { return };
        for dst in ["10.244.2.9", "fd00:2::9", "10.244.4.9", "fd00:4::9"] {
            for port in 1000..1100 {
                let frame = datagram(dst, port);
                let case = Case::new("a flow", FROM_POD, frame, Outcome::Done(verdict));
                let wanted = (REDIRECT, vec![(verdict.slot(), 1)]);
                assert_eq!(world.counted(&case), wanted, "{dst} port {port}");
            }
        }
        // Also while the agent has not written the set, or somebody has removed it.
        world.datapath.hops().remove(&SET).expect("a set");
        let frame = datagram("10.244.2.9", 1000);
        let case = Case::new("no set", FROM_POD, frame, Outcome::Done(verdict));
        let wanted = (REDIRECT, vec![(verdict.slot(), 1)]);
        assert_eq!(world.counted(&case), wanted, "without the set");
    }
}

#[test]
fn the_hosts_packets_are_spread_too() {
    let Some(world) = world(route_flags::DIRECT) else {
        return;
    };
    let frame = Ip::new("10.244.1.0", "10.244.2.9", UDP);
    let frame = frame.frame(VTEP[1], VTEP[1], &udp(1, 53, b"hello"));
    let hook = (Program::ToOverlay, crate::world::OVERLAY);
    world.check(&Case::new("the host's", hook, frame, Outcome::Done(ToPeer)));
}

/// The sender chooses by itself, so what it sends may come by any device that leads to it.
#[test]
fn plain_packets_come_in_by_each_device_that_leads_to_the_sender() {
    let Some(world) = world(route_flags::DIRECT) else {
        return;
    };
    let payload = udp(53, 1000, b"hello");
    let ip = Ip::new("10.244.2.9", "10.244.1.2", UDP);
    let later = Ip {
        ttl: 63,
        ..ip.clone()
    };
    let delivered = later.frame(MAC_A, GATEWAY, &payload);
    let row = |name, device, outcome| {
        let own = if device == UPLINK {
            UPLINK_MAC
        } else {
            GATEWAY
        };
        let came = ip.frame(own, OTHER_MAC, &payload);
        Case::new(name, (Program::FromUplink, device), came, outcome)
    };
    world.check_all(&[
        row("the first", UPLINK, Outcome::Done(FromPeer)).out(delivered.clone()),
        row("the second", SECOND, Outcome::Done(FromPeer)).out(delivered),
        row("another", POD_A, Outcome::NotOurs),
    ]);
    world.datapath.hops().remove(&SET).expect("a set");
    world.check(&row("no set any more", SECOND, Outcome::NotOurs));
}

/// Over IPv6 an aggregate goes by the overlay device, and there the kernel chooses; the flow's other packets
/// must not take another way meanwhile.
#[test]
fn over_ipv6_the_flow_of_an_aggregate_follows_it() {
    let Some(world) = world(0) else { return };
    // The mark is the processor's.
    pin_to_one_cpu();
    let flow = |gso, outcome| {
        let case = Case::new("a flow", FROM_POD, datagram("10.244.4.9", 1000), outcome);
        case.gso(gso)
    };
    let (aggregate, single) = (
        flow(5, Outcome::Done(ToHost)),
        flow(0, Outcome::Done(ToHost)),
    );
    let alone = world.counted(&single);
    assert_eq!(alone, (REDIRECT, vec![(ToVtep.slot(), 1)]), "alone");
    // And it is one of the last two ticks: a busy machine needs several tries.
    let followed = (0..20).any(|_| {
        assert_eq!(world.run(&aggregate).0, NEXT, "an aggregate");
        world.counted(&single) == (NEXT, vec![(ToHost.slot(), 1)])
    });
    assert!(followed, "no packet right behind an aggregate went its way");
    // Over IPv4 all go the same way, so nobody looks for marks.
    let over_v4 = Case::new(
        "over IPv4",
        FROM_POD,
        datagram("10.244.2.9", 1000),
        Outcome::Done(ToVtep),
    );
    assert_eq!(world.run(&over_v4).0, REDIRECT);
}
