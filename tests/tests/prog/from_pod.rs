//! What a pod sends, as far as it is right.

use oxlan::datapath::Program;
use oxlan_common::counters::Verdict::{Ignored, LocalPod, ToHost, ToVtep};
use oxlan_common::maps::pod_flags;
use oxlan_common::packet::checksum;
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{ICMPV6, Ip, TCP, UDP, VXLAN_I, addr, ethernet, icmpv6, udp, vxlan};

use crate::case::{Case, Outcome, REDIRECT, hex};
use crate::world::{GATEWAY, MAC_A, MAC_B, MTU, OTHER_MAC, POD_A, VTEP, World};

const HOOK: (Program, u32) = (Program::FromPod, POD_A);

/// A frame of pod A's to its gateway.
fn sent(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    ip.frame(GATEWAY, MAC_A, payload)
}

/// The same, routed to pod B.
fn routed(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    let ip = Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    ip.frame(MAC_B, GATEWAY, payload)
}

fn both_families(v4: (&str, &str), v6: (&str, &str), protocol: u8) -> [Ip; 2] {
    [v4, v6].map(|(src, dst)| Ip::new(src, dst, protocol))
}

#[test]
fn pods_of_this_node() {
    let Some(world) = World::new() else { return };
    deliveries(&world);
}

/// The way into a pod whose bandwidth is limited is another one, and nothing else.
#[test]
fn limited_pods_of_this_node() {
    let Some(world) = World::new() else { return };
    for address in ["10.244.1.3", "fd00:1::3"] {
        let key = addr(address);
        let mut pod = world.datapath.pods().get(&key).unwrap().unwrap();
        pod.flags |= pod_flags::LIMITED;
        world.datapath.pods().set(&key, &pod).unwrap();
    }
    deliveries(&world);
}

fn deliveries(world: &World) {
    let payload = udp(1000, 53, b"hello");
    for ip in both_families(
        ("10.244.1.2", "10.244.1.3"),
        ("fd00:1::2", "fd00:1::3"),
        UDP,
    ) {
        let case = |name, ip: &Ip, outcome| Case::new(name, HOOK, sent(ip, &payload), outcome);
        let last_hop = Ip {
            ttl: 1,
            ..ip.clone()
        };
        let two_hops = Ip {
            ttl: 2,
            ..ip.clone()
        };
        world.check_all(&[
            case("an ordinary packet", &ip, Outcome::Done(LocalPod)).out(routed(&ip, &payload)),
            case(
                "a packet with one hop left after this",
                &two_hops,
                Outcome::Done(LocalPod),
            )
            .out(routed(&two_hops, &payload)),
            case("a packet that ends here", &last_hop, Outcome::Done(ToHost)),
            case("an aggregate", &ip, Outcome::Done(LocalPod))
                .gso(1000)
                .out(routed(&ip, &payload)),
        ]);
        let tunnel = udp(1000, DEFAULT_PORT, b"a pod's own VXLAN");
        world.check(
            &Case::new(
                "the tunnel port of a pod",
                HOOK,
                sent(&ip, &tunnel),
                Outcome::Done(LocalPod),
            )
            .out(routed(&ip, &tunnel)),
        );
    }
}

#[test]
fn fragments_stay_fragments() {
    let Some(world) = World::new() else { return };
    let mut ip = Ip::new("10.244.1.2", "10.244.1.3", UDP);
    for (name, fragment) in [("first", 0x2000), ("middle", 0x2001), ("last", 0x0002)] {
        ip.fragment = fragment;
        let case = Case::new(name, HOOK, sent(&ip, &[7; 16]), Outcome::Done(LocalPod));
        world.check(&case.out(routed(&ip, &[7; 16])));
    }
    let ip = Ip::new("fd00:1::2", "fd00:1::3", 44);
    for (name, offset) in [("first", 0x0001_u16), ("last", 0x0010)] {
        let payload = [&[UDP, 0][..], &offset.to_be_bytes(), &[0; 4], &[7; 16]].concat();
        let case = Case::new(name, HOOK, sent(&ip, &payload), Outcome::Done(LocalPod));
        world.check(&case.out(routed(&ip, &payload)));
    }
}

#[test]
fn extension_headers_are_walked() {
    let Some(world) = World::new() else { return };
    // Hop-by-hop, destination options and authentication, then UDP: to the host this port is forbidden.
    let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([51, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend([UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend(udp(1, DEFAULT_PORT, &[]));
    let ip = Ip::new("fd00:1::2", "2001:db8::1", 0);
    let dropped = Outcome::Dropped(oxlan_common::counters::DropReason::TunnelPort);
    world.check(&Case::new(
        "three extensions",
        HOOK,
        sent(&ip, &payload),
        dropped,
    ));
}

#[test]
fn pods_of_other_nodes() {
    let Some(world) = World::new() else { return };
    let payload = udp(1000, 53, b"hello");
    for (node, v4, v6) in [
        (2, "10.244.2.9", "fd00:2::9"),
        (3, "10.244.2.130", "fd00:2:0:0:ff::9"),
    ] {
        for ip in both_families(("10.244.1.2", v4), ("fd00:1::2", v6), UDP) {
            for tos in [0, 0b01, 0b10, 0b11, 0xb8] {
                let ip = Ip { tos, ..ip.clone() };
                check_encapsulation(&world, node, &ip, &payload);
            }
        }
    }
}

fn check_encapsulation(world: &World, node: usize, ip: &Ip, payload: &[u8]) {
    let frame = sent(ip, payload);
    let case = Case::new("encapsulation", HOOK, frame, Outcome::Done(ToVtep));
    let before = world.counters();
    let (returned, packet) = world.run(&case);
    assert_eq!(returned, REDIRECT);
    assert_eq!(hex(&packet), hex(&encapsulated(&packet, node, ip, payload)));
    let slot = usize::try_from(ToVtep.slot()).unwrap();
    let counted = world.counters()[slot].1.bytes - before[slot].1.bytes;
    assert_eq!(
        counted,
        case.packet.len() as u64,
        "bytes without the tunnel's"
    );
}

/// What must come out; identification and source port, which are free, are those of `packet`.
fn encapsulated(packet: &[u8], node: usize, ip: &Ip, payload: &[u8]) -> Vec<u8> {
    let inner = Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    let inner = inner.frame(VTEP[node], VTEP[1], payload);
    let src_port = u16::from_be_bytes([packet[34], packet[35]]);
    assert!((32768..60999).contains(&src_port), "source port {src_port}");
    let outer = Ip {
        tos: ip.tos & 3,
        ..Ip::new("10.9.0.1", &format!("10.9.0.{node}"), UDP)
    };
    let mut outer = outer.with(&udp(src_port, DEFAULT_PORT, &vxlan(VXLAN_I, 1, &inner)));
    outer[4..6].copy_from_slice(&packet[18..20]);
    outer[10..12].fill(0);
    let check = checksum::of(&outer[..20], 0);
    outer[10..12].copy_from_slice(&check);
    // The kernel replaces the MACs and the type when it sends to the next hop.
    [&packet[..14], &outer].concat()
}

#[test]
fn one_flow_has_one_source_port() {
    let Some(world) = World::new() else { return };
    let port = |src_port| {
        let ip = Ip::new("10.244.1.2", "10.244.2.9", TCP);
        let segment = [
            &u16::to_be_bytes(src_port)[..],
            &[0, 80],
            &[0; 8],
            &[0x50],
            &[0; 7],
        ]
        .concat();
        let case = Case::new("flow", HOOK, sent(&ip, &segment), Outcome::Done(ToVtep));
        let (_, packet) = world.run(&case);
        [packet[34], packet[35]]
    };
    assert_eq!(port(1000), port(1000));
    let ports: std::collections::BTreeSet<_> = (1000..1020).map(port).collect();
    assert!(ports.len() > 15, "20 flows have {} ports", ports.len());
}

#[test]
fn what_the_host_has_to_do() {
    let Some(world) = World::new() else { return };
    let payload = udp(1000, 53, b"hello");
    for ip in both_families(
        ("10.244.1.2", "10.244.2.9"),
        ("fd00:1::2", "fd00:2::9"),
        UDP,
    ) {
        let header = if ip.src.is_v4() { 20 } else { 40 };
        let fill = |size: usize| udp(1000, 53, &vec![1; size - header - 8]);
        let to = |dst| Ip {
            dst: addr(dst),
            ..ip.clone()
        };
        let v6 = !ip.src.is_v4();
        let case = |name, ip: &Ip, payload: &[u8]| {
            Case::new(name, HOOK, sent(ip, payload), Outcome::Done(ToHost))
        };
        let last_hop = Ip {
            ttl: 1,
            ..ip.clone()
        };
        world.check_all(&[
            case("a packet that ends here", &last_hop, &payload),
            case(
                "a node that cannot be reached",
                &to(if v6 { "fd00:3::9" } else { "10.244.3.9" }),
                &payload,
            ),
            case(
                "an address of ours without a pod",
                &to(if v6 { "fd00:1::77" } else { "10.244.1.77" }),
                &payload,
            ),
            case(
                "the node itself",
                &to(if v6 { "fd00:1::" } else { "10.244.1.0" }),
                &payload,
            ),
            case(
                "the world",
                &to(if v6 { "2001:db8::1" } else { "192.0.2.1" }),
                &payload,
            ),
        ]);
        check_encapsulation(&world, 2, &ip, &fill(usize::from(MTU)));
    }
}

#[test]
fn what_ends_at_the_veth() {
    let Some(world) = World::new() else { return };
    let report = |src, kind| {
        let ip = Ip::new(src, "ff02::16", ICMPV6);
        let message = icmpv6(&ip, kind, &[0; 24]);
        sent(&ip, &message)
    };
    let ignored = |name, packet| Case::new(name, HOOK, packet, Outcome::Done(Ignored));
    let mdns = Ip::new("10.244.1.2", "224.0.0.251", UDP);
    let wake_up = Ip::new("10.244.1.2", "255.255.255.255", UDP);
    let ping = Ip::new("fe80::5", "fe80::1", ICMPV6);
    world.check_all(&[
        ignored("multicast listener report", report("::", 143)),
        ignored("router solicitation", report("fe80::5", 133)),
        ignored(
            "listener report from the pod's address",
            report("fd00:1::2", 143),
        ),
        ignored("IPv4 multicast", sent(&mdns, &udp(5353, 5353, &[]))),
        ignored("IPv4 broadcast", sent(&wake_up, &udp(9, 9, &[]))),
        ignored("link-local ping", sent(&ping, &icmpv6(&ping, 128, &[0; 4]))),
    ]);
}

#[test]
fn nothing_happens_before_the_configuration() {
    let Some(world) = World::empty() else { return };
    let ip = Ip::new("10.244.1.2", "10.244.1.3", UDP);
    let frame = sent(&ip, &udp(1, 2, &[]));
    // The row of `from_uplink` is one of `xdp_uplink`, too.
    for program in Program::ALL.into_iter().filter(|p| !p.is_xdp()) {
        world.check(&Case::new(
            program.name(),
            (program, POD_A),
            frame.clone(),
            Outcome::NotOurs,
        ));
    }
    let strange = ethernet(GATEWAY, OTHER_MAC, [0x88, 0xcc], &[0; 40]);
    world.check(&Case::new("not even IP", HOOK, strange, Outcome::NotOurs));
}
