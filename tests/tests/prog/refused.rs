//! What a pod must not send.

use oxlan::datapath::Program;
use oxlan_common::addr::Mac;
use oxlan_common::counters::DropReason::{
    ForeignMac, ForeignSource, Malformed, RouterAdvertisement, Truncated, TunnelPort,
    UnsupportedProtocol,
};
use oxlan_common::counters::{DropReason, Verdict};
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{ICMPV6, Ip, TCP, UDP, addr, ethernet, icmpv6, udp};

use crate::case::{Case, Outcome};
use crate::world::{GATEWAY, MAC_A, MAC_B, POD_A, POD_B, World};

const HOOK: (Program, u32) = (Program::FromPod, POD_A);

fn row(name: &'static str, packet: Vec<u8>, reason: DropReason) -> Case {
    Case::new(name, HOOK, packet, Outcome::Dropped(reason))
}

fn sent(src: &str, dst: &str, mac: Mac) -> Vec<u8> {
    Ip::new(src, dst, UDP).frame(GATEWAY, mac, &udp(1, 53, &[]))
}

#[test]
fn foreign_sources() {
    let Some(world) = World::new() else { return };
    for (own, other, host, far) in [
        ("10.244.1.2", "10.244.1.3", "10.244.1.0", "10.244.2.9"),
        ("fd00:1::2", "fd00:1::3", "fd00:1::", "fd00:2::9"),
    ] {
        let unknown = if own.contains(':') {
            "2001:db8::1"
        } else {
            "0.0.0.0"
        };
        world.check_all(&[
            row("another pod", sent(other, far, MAC_A), ForeignSource),
            row(
                "another pod with its MAC",
                sent(other, far, MAC_B),
                ForeignSource,
            ),
            row("the host", sent(host, other, MAC_A), ForeignSource),
            row("a pod elsewhere", sent(far, other, MAC_A), ForeignSource),
            row("nobody", sent(unknown, other, MAC_A), ForeignSource),
            row("own address, other MAC", sent(own, far, MAC_B), ForeignMac),
        ]);
        let mut elsewhere = row(
            "at another pod's veth",
            sent(own, far, MAC_A),
            ForeignSource,
        );
        elsewhere.ifindex = POD_B;
        world.check(&elsewhere);
    }
}

#[test]
fn router_advertisements() {
    let Some(world) = World::new() else { return };
    for src in ["fe80::5", "fd00:1::2", "fd00:1::3"] {
        let ip = Ip {
            ttl: 255,
            ..Ip::new(src, "ff02::1", ICMPV6)
        };
        let frame = ip.frame(GATEWAY, MAC_A, &icmpv6(&ip, 134, &[0; 12]));
        world.check(&row("plain", frame, RouterAdvertisement));
        // Behind a header of options, as RFC 7113 has it.
        let hidden = [
            &[ICMPV6, 0, 1, 4, 0, 0, 0, 0][..],
            &icmpv6(&ip, 134, &[0; 12]),
        ]
        .concat();
        let ip = Ip { protocol: 60, ..ip };
        world.check(&row(
            "hidden",
            ip.frame(GATEWAY, MAC_A, &hidden),
            RouterAdvertisement,
        ));
    }
}

#[test]
fn the_tunnel_port() {
    let Some(world) = World::new() else { return };
    let tunnel = udp(1, DEFAULT_PORT, &[]);
    for (src, node, other_node, world_outside) in [
        ("10.244.1.2", "10.244.1.0", "10.9.0.2", "192.0.2.1"),
        ("fd00:1::2", "fd00:1::", "fd00:9::2", "2001:db8::1"),
    ] {
        for dst in [node, other_node, world_outside] {
            let ip = Ip::new(src, dst, UDP);
            world.check(&row("UDP", ip.frame(GATEWAY, MAC_A, &tunnel), TunnelPort));
            let tcp = Ip {
                protocol: TCP,
                ..ip
            };
            let passed = Outcome::Done(Verdict::ToHost);
            let frame = tcp.frame(GATEWAY, MAC_A, &tunnel);
            world.check(&Case::new("the same port of TCP", HOOK, frame, passed));
        }
    }
    let first = Ip {
        fragment: 0x2000,
        ..Ip::new("10.244.1.2", "10.9.0.2", UDP)
    };
    world.check(&row(
        "first fragment",
        first.frame(GATEWAY, MAC_A, &tunnel),
        TunnelPort,
    ));
}

#[test]
fn broken_ipv4() {
    let Some(world) = World::new() else { return };
    let ip = Ip::new("10.244.1.2", "10.244.1.3", UDP);
    let payload = udp(1, 53, b"hello");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = ip.frame(GATEWAY, MAC_A, &payload);
        change(&mut frame);
        frame
    };
    let lie = |lie| Ip { lie, ..ip.clone() }.frame(GATEWAY, MAC_A, &payload);
    let first = Ip {
        fragment: 0x2000,
        ..ip.clone()
    };
    world.check_all(&[
        row("length beyond the end", lie(1), Truncated),
        row("length within the header", lie(-14), Malformed),
        row("version 5", with(&|f| f[14] = 0x55), Malformed),
        row("header of 16 bytes", with(&|f| f[14] = 0x44), Malformed),
        row(
            "header beyond the packet",
            with(&|f| f[14] = 0x4f),
            Malformed,
        ),
        row(
            "ports in the next fragment",
            first.frame(GATEWAY, MAC_A, &[0; 4]),
            Malformed,
        ),
    ]);
}

#[test]
fn broken_ipv6() {
    let Some(world) = World::new() else { return };
    let ip = Ip::new("fd00:1::2", "fd00:1::3", UDP);
    let payload = udp(1, 53, b"hello");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = ip.frame(GATEWAY, MAC_A, &payload);
        change(&mut frame);
        frame
    };
    let chain = |protocol, payload: &[u8]| {
        let ip = Ip {
            protocol,
            ..ip.clone()
        };
        ip.frame(GATEWAY, MAC_A, payload)
    };
    let options = [60, 0, 1, 4, 0, 0, 0, 0].repeat(7);
    let first_without_ports = [UDP, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4];
    world.check_all(&[
        row(
            "length beyond the end",
            Ip {
                lie: 1,
                ..ip.clone()
            }
            .frame(GATEWAY, MAC_A, &payload),
            Truncated,
        ),
        row("version 4", with(&|f| f[14] = 0x40), Malformed),
        row("seven extensions", chain(60, &options), Malformed),
        row(
            "an extension beyond the end",
            chain(60, &[UDP, 200]),
            Truncated,
        ),
        row(
            "ports in the next fragment",
            chain(44, &first_without_ports),
            Malformed,
        ),
    ]);
}

#[test]
fn ipv4_addresses_in_ipv6_headers() {
    let Some(world) = World::new() else { return };
    let ip = Ip::new("fd00:1::2", "fd00:1::3", UDP);
    for (src, dst) in [
        ("10.244.1.2", "10.244.1.3"),
        ("10.244.1.2", "10.244.2.9"),
        ("10.244.1.2", "192.0.2.1"),
        ("10.244.1.2", "fd00:1::3"),
        ("fd00:1::2", "10.244.1.3"),
    ] {
        let mut frame = ip.frame(GATEWAY, MAC_A, &udp(1, 53, b"hello"));
        frame[22..38].copy_from_slice(&addr(src).bytes);
        frame[38..54].copy_from_slice(&addr(dst).bytes);
        world.check(&row("v4-mapped", frame, Malformed));
    }
}

#[test]
fn strange_frames() {
    let Some(world) = World::new() else { return };
    // The kernel runs no program for a test with less of an IP header than there must be.
    let short = ethernet(GATEWAY, MAC_A, [8, 6], &[0; 19]);
    world.check(&row("too short for anything", short, Truncated));
    for (name, ethertype) in [
        ("VLAN", [0x81, 0]),
        ("LLDP", [0x88, 0xcc]),
        ("802.3", [0, 40]),
    ] {
        let frame = ethernet(GATEWAY, MAC_A, ethertype, &[0; 60]);
        world.check(&row(name, frame, UnsupportedProtocol));
    }
}
