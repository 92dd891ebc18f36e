//! An underlay of IPv6: outer headers of 70 bytes, and a UDP checksum that must be right.

use oxlan::datapath::Program;
use oxlan_common::counters::DropReason::{CongestionMark, NoUdpChecksum};
use oxlan_common::counters::Verdict::{FromVtep, ToHost, ToOverlay, ToVtep};
use oxlan_common::maps::{COPY_DSCP, Config};
use oxlan_common::packet::checksum::fold;
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{ICMPV6, Ip, TCP, UDP, VXLAN_I, checked, icmpv6, pseudo_sum, udp, vxlan};

use crate::case::{Case, Outcome, REDIRECT, hex};
use crate::tunnel::HOOK as FROM_UPLINK;
use crate::world::{GATEWAY, MAC_A, OTHER_MAC, OVERLAY, POD_A, UPLINK_MAC, VTEP, World, config};

const FROM_POD: (Program, u32) = (Program::FromPod, POD_A);
const TO_OVERLAY: (Program, u32) = (Program::ToOverlay, OVERLAY);

/// Pod A's packets to a pod of the node behind the IPv6 underlay.
fn to_far(protocol: u8) -> [Ip; 2] {
    [
        Ip::new("10.244.1.2", "10.244.4.9", protocol),
        Ip::new("fd00:1::2", "fd00:4::9", protocol),
    ]
}

/// Packets of the other node's, which has both underlay families, to pod A.
fn from_far() -> [Ip; 2] {
    [
        Ip::new("10.244.2.9", "10.244.1.2", UDP),
        Ip::new("fd00:2::9", "fd00:1::2", UDP),
    ]
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    [&[3, 232, 0, 80][..], &[0; 8], &[0x50], &[0; 7], payload].concat()
}

/// Segments whose checksum is right, by protocol, of even and odd lengths.
fn segments(ip: &Ip) -> Vec<(Ip, Vec<u8>)> {
    let with = |protocol, segment| {
        let ip = Ip {
            protocol,
            ..ip.clone()
        };
        let segment = checked(&ip, segment);
        (ip, segment)
    };
    let mut all = Vec::new();
    for length in [0, 1, 2, 700, 1301] {
        let payload = vec![0xa7; length];
        all.push(with(UDP, udp(1000, 53, &payload)));
        all.push(with(TCP, tcp(&payload)));
        if !ip.src.is_v4() {
            all.push(with(
                ICMPV6,
                [&[128, 0, 0, 0, 0, 7, 0, 1], &payload[..]].concat(),
            ));
        }
    }
    all
}

#[test]
fn checksums_are_made() {
    let Some(world) = World::new() else { return };
    for ip in to_far(UDP) {
        for (ip, segment) in segments(&ip) {
            for tos in [0, 0b01, 0b10, 0b11, 0xb8] {
                let ip = Ip { tos, ..ip.clone() };
                check_encapsulation(&world, &ip, &segment, tos & 3);
            }
        }
    }
}

#[test]
fn an_inner_checksum_that_a_device_fills_in_counts_as_filled_in() {
    let Some(world) = World::new() else { return };
    for ip in to_far(UDP) {
        let whole = checked(&ip, udp(1000, 53, &[0x55; 333]));
        let mut partial = whole.clone();
        let pseudo = fold(pseudo_sum(&ip, partial.len()));
        partial[6..8].copy_from_slice(&pseudo.to_be_bytes());
        let case = |segment: &[u8]| {
            let frame = ip.frame(GATEWAY, MAC_A, segment);
            Case::new("checksum", FROM_POD, frame, Outcome::Done(ToVtep))
        };
        let outer = |segment: &[u8]| world.run(&case(segment)).1[14..84].to_vec();
        assert_eq!(hex(&outer(&partial)), hex(&outer(&whole)));
    }
}

#[test]
fn what_needs_a_look_at_the_whole_packet() {
    let Some(world) = World::new() else { return };
    let host = Outcome::Done(ToHost);
    for ip in to_far(UDP) {
        let right = checked(&ip, udp(1000, 53, b"hello"));
        let row = |name, segment: &[u8]| {
            Case::new(name, FROM_POD, ip.frame(GATEWAY, MAC_A, segment), host)
        };
        let mut short = right.clone();
        short[5] -= 1;
        let trailing = [ip.frame(GATEWAY, MAC_A, &right), vec![1, 2, 3]].concat();
        let other = Ip {
            protocol: 132,
            ..ip.clone()
        };
        let other = other.frame(GATEWAY, MAC_A, &[0; 32]);
        world.check_all(&[
            row("an aggregate", &right).gso(500),
            row("no checksum", &udp(1000, 53, b"hello")),
            row("a datagram that ends before the packet", &short),
            Case::new("bytes behind the packet", FROM_POD, trailing, host),
            Case::new("another protocol", FROM_POD, other, host),
        ]);
    }
    let fragment = Ip {
        fragment: 0x2000,
        ..Ip::new("10.244.1.2", "10.244.4.9", UDP)
    };
    let extended = Ip::new("fd00:1::2", "fd00:4::9", 60);
    let payload = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp(1, 53, &[1; 9])].concat();
    world.check_all(&[
        Case::new(
            "a fragment",
            FROM_POD,
            fragment.frame(GATEWAY, MAC_A, &[9; 64]),
            host,
        ),
        Case::new(
            "an extension header",
            FROM_POD,
            extended.frame(GATEWAY, MAC_A, &payload),
            host,
        ),
    ]);
}

#[test]
fn dscp_is_copied_or_set() {
    let Some(world) = World::new() else { return };
    for (dscp, wanted) in [(0, 0b10), (46, 0xba), (63, 0xfe), (COPY_DSCP, 0x2a)] {
        let config = Config { dscp, ..config() };
        world.datapath.set_config(&config).unwrap();
        for ip in to_far(UDP) {
            let ip = Ip { tos: 0x2a, ..ip };
            let segment = checked(&ip, udp(1000, 53, b"hello"));
            check_encapsulation(&world, &ip, &segment, wanted);
        }
        let v4 = Ip {
            tos: 0x2a,
            ..Ip::new("10.244.1.2", "10.244.2.9", UDP)
        };
        let frame = v4.frame(GATEWAY, MAC_A, &udp(1, 53, b"hello"));
        let case = Case::new("over IPv4", FROM_POD, frame, Outcome::Done(ToVtep));
        assert_eq!(world.run(&case).1[15], wanted);
    }
}

/// One packet from pod A, and everything that comes out; the source port is free.
fn check_encapsulation(world: &World, ip: &Ip, segment: &[u8], tos: u8) {
    let frame = ip.frame(GATEWAY, MAC_A, segment);
    let case = Case::new("encapsulation", FROM_POD, frame, Outcome::Done(ToVtep));
    let (returned, packet) = world.run(&case);
    assert_eq!(returned, REDIRECT);
    let inner = Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    let inner = inner.frame(VTEP[3], VTEP[1], segment);
    let src_port = u16::from_be_bytes([packet[54], packet[55]]);
    assert!((32768..60999).contains(&src_port), "source port {src_port}");
    let outer = Ip {
        tos,
        ..Ip::new("fd00:9::1", "fd00:9::3", UDP)
    };
    let datagram = udp(src_port, DEFAULT_PORT, &vxlan(VXLAN_I, 1, &inner));
    let wanted = outer.with(&checked(&outer, datagram));
    // The kernel replaces the MACs and the type when it sends to the next hop.
    assert_eq!(hex(&packet[14..]), hex(&wanted));
}

/// A tunnel packet of the other node's.
struct Tunnel {
    outer: Ip,
    datagram: Vec<u8>,
}

impl Tunnel {
    fn around(ip: &Ip, segment: &[u8]) -> Self {
        let outer = Ip::new("fd00:9::2", "fd00:9::1", UDP);
        let inner = ip.frame(VTEP[1], VTEP[2], segment);
        let datagram = udp(40000, DEFAULT_PORT, &vxlan(VXLAN_I, 1, &inner));
        let datagram = checked(&outer, datagram);
        Self { outer, datagram }
    }

    fn check(mut self, check: u16) -> Self {
        self.datagram[6..8].copy_from_slice(&check.to_be_bytes());
        self
    }

    fn row(&self, name: &'static str, outcome: Outcome) -> Case {
        let frame = self.outer.frame(UPLINK_MAC, OTHER_MAC, &self.datagram);
        Case::new(name, FROM_UPLINK, frame, outcome)
    }
}

fn delivered(ip: &Ip, segment: &[u8]) -> Vec<u8> {
    let ip = Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    ip.frame(MAC_A, GATEWAY, segment)
}

/// Those of [`from_far`] that the programs decapsulate on this kernel: IPv4 from IPv6 needs Linux 6.3
/// (commit d219df60a70e), like IPv6 from IPv4.
fn decapsulated() -> Vec<Ip> {
    let has_flag = crate::tunnel::decapsulated_ips().len() == 2;
    let ips = from_far().into_iter();
    ips.filter(|ip| has_flag || !ip.src.is_v4()).collect()
}

#[test]
fn right_checksums_are_delivered() {
    let Some(world) = World::new() else { return };
    for ip in decapsulated() {
        for (ip, segment) in segments(&ip) {
            let row = Tunnel::around(&ip, &segment).row("right", Outcome::Done(FromVtep));
            world.check(&row.out(delivered(&ip, &segment)));
        }
    }
}

#[test]
fn other_checksums_are_not() {
    let Some(world) = World::new() else { return };
    let aside = Outcome::Done(ToOverlay);
    for ip in from_far() {
        let segment = checked(&ip, udp(1, 53, b"hello"));
        let right = || Tunnel::around(&ip, &segment);
        let check = u16::from_be_bytes([right().datagram[6], right().datagram[7]]);
        let pseudo = fold(pseudo_sum(&right().outer, right().datagram.len()));
        let mut damaged = segment.clone();
        damaged[9] ^= 1;
        world.check_all(&[
            right()
                .check(0)
                .row("none", Outcome::Dropped(NoUdpChecksum)),
            right().check(check ^ 0x0100).row("wrong", aside),
            right().check(pseudo).row("left to a device", aside),
            Tunnel::around(&ip, &damaged).row("a wrong inner one", aside),
            Tunnel::around(&ip, &udp(1, 53, b"hello")).row("no inner one", aside),
        ]);
    }
}

#[test]
fn congestion_marks() {
    let Some(world) = World::new() else { return };
    for ip in decapsulated() {
        for (outer, before, after) in [
            (0b00, 0b10, Some(0b10)),
            (0b10, 0b10, Some(0b10)),
            (0b01, 0b10, Some(0b01)),
            (0b11, 0b10, Some(0b11)),
            (0b11, 0b01, Some(0b11)),
            (0b10, 0b11, Some(0b11)),
            (0b10, 0b00, Some(0b00)),
            (0b11, 0b00, None),
        ] {
            let marked = |ecn: u8| Ip {
                tos: 0xb8 | ecn,
                ..ip.clone()
            };
            let segment = checked(&ip, udp(1, 53, b"hello"));
            let mut tunnel = Tunnel::around(&marked(before), &segment);
            tunnel.outer.tos = outer;
            world.check(&match after {
                Some(after) => tunnel
                    .row("marked", Outcome::Done(FromVtep))
                    .out(delivered(&marked(after), &segment)),
                None => tunnel.row("not capable", Outcome::Dropped(CongestionMark)),
            });
        }
    }
}

#[test]
fn host_traffic() {
    let Some(world) = World::new() else { return };
    for (src, dst) in [("10.244.1.0", "10.244.4.9"), ("fd00:1::", "fd00:4::9")] {
        let ip = Ip::new(src, dst, UDP);
        let frame = |mac| ip.frame(mac, VTEP[1], &udp(1, 53, b"hello"));
        let row = Case::new("host", TO_OVERLAY, frame(VTEP[1]), Outcome::Done(ToVtep));
        world.check(&row.out(frame(VTEP[3])));
    }
    let echo = Ip::new("fd00:1::2", "fd00:4::9", ICMPV6);
    let echo = echo.frame(VTEP[1], VTEP[1], &icmpv6(&echo, 128, &[0; 8]));
    let case = Case::new("a pod's", TO_OVERLAY, echo, Outcome::Done(ToVtep));
    assert_eq!(world.run(&case).0, crate::case::NEXT);
}
