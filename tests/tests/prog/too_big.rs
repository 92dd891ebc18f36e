//! Packets that do not fit towards another node: what the pod is told.

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use oxlan::datapath::Program;
use oxlan_common::counters::DropReason::{TooBigLimited, TooBigUnanswered};
use oxlan_common::counters::Verdict::{ToHost, ToVtep, TooBig};
use oxlan_common::limit::ANSWERS_AT_ONCE;
use oxlan_common::maps::{RouteKey, RouteValue};
use oxlan_common::packet::checksum;
use oxlan_common::wire::{DEFAULT_VNI, MIN_MTU_V6};
use oxlan_tests::packet::{ICMPV6, Ip, TCP, UDP, addr, ethernet, icmpv6, udp};

use crate::case::{Case, Outcome, REDIRECT};
use crate::world::{GATEWAY, MAC_A, MAC_B, MTU, POD_A, POD_B, UPLINK, VTEP, World};

const HOOK: (Program, u32) = (Program::FromPod, POD_A);
const ICMP: u8 = 1;
const DF: u16 = 0x4000;
const MORE: u16 = 0x2000;

/// A packet of pod A's to a pod of node 2, and an IPv4 one that must not be fragmented.
fn ip(is_v4: bool, protocol: u8) -> Ip {
    if is_v4 {
        let ip = Ip::new("10.244.1.2", "10.244.2.9", protocol);
        Ip { fragment: DF, ..ip }
    } else {
        Ip::new("fd00:1::2", "fd00:2::9", protocol)
    }
}

fn header_len(ip: &Ip) -> usize {
    if ip.src.is_v4() { 20 } else { 40 }
}

/// A UDP datagram that makes the packet `size` bytes long. Its bytes differ, so that a shifted quote is seen.
fn fill(ip: &Ip, size: usize) -> Vec<u8> {
    let bytes = (0..size - header_len(ip) - 8).map(|n| n.to_le_bytes()[0]);
    udp(1000, 53, &bytes.collect::<Vec<u8>>())
}

fn sent(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    ip.frame(GATEWAY, MAC_A, payload)
}

/// The answer to a frame of pod A's, as the standards write it.
fn answer(frame: &[u8], mtu: u16) -> Vec<u8> {
    let packet = &frame[14..];
    if packet[0] >> 4 == 4 {
        let quote = &packet[..if mtu < 576 { 68 } else { 576 - 28 }];
        let [high, low] = mtu.to_be_bytes();
        let mut message = [&[3, 4, 0, 0, 0, 0, high, low], quote].concat();
        let check = checksum::of(&message, 0);
        message[2..4].copy_from_slice(&check);
        let ip = Ip {
            tos: 0xc0,
            ..Ip::new("10.244.1.0", "10.244.1.2", ICMP)
        };
        let mut packet = ip.with(&message);
        packet[4..6].fill(0);
        packet[10..12].fill(0);
        let check = checksum::of(&packet[..20], 0);
        packet[10..12].copy_from_slice(&check);
        ethernet(MAC_A, GATEWAY, [8, 0], &packet)
    } else {
        let ip = Ip::new("fd00:1::", "fd00:1::2", ICMPV6);
        let body = [&u32::from(mtu).to_be_bytes()[..], &packet[..1280 - 48]].concat();
        ip.frame(MAC_A, GATEWAY, &icmpv6(&ip, 2, &body))
    }
}

fn told(name: &'static str, frame: Vec<u8>, mtu: u16) -> Case {
    let out = answer(&frame, mtu);
    Case::new(name, HOOK, frame, Outcome::Done(TooBig)).out(out)
}

fn silent(name: &'static str, frame: Vec<u8>) -> Case {
    Case::new(name, HOOK, frame, Outcome::Dropped(TooBigUnanswered))
}

fn to_host(name: &'static str, frame: Vec<u8>) -> Case {
    Case::new(name, HOOK, frame, Outcome::Done(ToHost))
}

const SIZE: usize = MTU as usize;

#[test]
fn the_pod_is_told_what_fits() {
    let Some(world) = World::new() else { return };
    for is_v4 in [true, false] {
        let ip = ip(is_v4, UDP);
        let frame = |size| sent(&ip, &fill(&ip, size));
        let segment = u32::from(MTU) - u32::try_from(header_len(&ip)).unwrap() - 8;
        world.check_all(&[
            told("one byte too many", frame(SIZE + 1), MTU),
            told("many bytes too many", frame(3000), MTU),
            told("an aggregate of too large ones", frame(3000), MTU).gso(segment + 1),
        ]);
        let fits = Case::new("it just fits", HOOK, frame(SIZE), Outcome::Done(ToVtep));
        assert_eq!(world.run(&fits).0, REDIRECT);
        let last_hop = Ip {
            ttl: 1,
            ..ip.clone()
        };
        world.check(&to_host(
            "a packet that ends here",
            sent(&last_hop, &fill(&ip, SIZE + 1)),
        ));
    }
}

/// The segment of an aggregate has the TCP header that is in front of it, options and all.
#[test]
fn tcp_aggregates() {
    let Some(world) = World::new() else { return };
    for is_v4 in [true, false] {
        let ip = ip(is_v4, TCP);
        let mut payload = vec![0; 3000];
        payload[12] = 8 << 4;
        let segment = u32::from(MTU) - u32::try_from(header_len(&ip)).unwrap() - 32;
        let frame = sent(&ip, &payload);
        world.check(&told("with 12 bytes of options", frame, MTU).gso(segment + 1));
    }
}

#[test]
fn ipv4_may_be_fragmented_by_the_host() {
    let Some(world) = World::new() else { return };
    let ip = Ip {
        fragment: 0,
        ..ip(true, UDP)
    };
    let first = Ip {
        fragment: MORE,
        ..ip.clone()
    };
    world.check_all(&[
        to_host("without DF", sent(&ip, &fill(&ip, SIZE + 1))),
        to_host("an aggregate without DF", sent(&ip, &fill(&ip, 3000))).gso(1500),
        to_host("a fragment", sent(&first, &fill(&ip, SIZE + 1))),
    ]);
}

/// RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e).
#[test]
fn what_must_not_be_answered() {
    let Some(world) = World::new() else { return };
    let icmp = |kind: u8| {
        let ip = ip(true, ICMP);
        sent(&ip, &[&[kind, 0, 0, 0][..], &[0; SIZE]].concat())
    };
    let icmp6 = |kind| {
        let ip = ip(false, ICMPV6);
        sent(&ip, &icmpv6(&ip, kind, &[0; SIZE]))
    };
    let fragment = |fragment| {
        let ip = Ip {
            fragment,
            ..ip(true, UDP)
        };
        sent(&ip, &fill(&ip, SIZE + 1))
    };
    let fragment6 = |offset: u16| {
        let ip = ip(false, 44);
        let header = [&[UDP, 0][..], &offset.to_be_bytes(), &[0; 4]].concat();
        sent(&ip, &[&header[..], &fill(&ip, SIZE + 1)].concat())
    };
    world.check_all(&[
        silent("destination unreachable", icmp(3)),
        silent("source quench", icmp(4)),
        silent("redirect", icmp(5)),
        silent("time exceeded", icmp(11)),
        silent("parameter problem", icmp(12)),
        told("echo request", icmp(8), MTU),
        told("echo reply", icmp(0), MTU),
        silent("ICMPv6 unreachable", icmp6(1)),
        silent("ICMPv6 packet too big", icmp6(2)),
        silent("ICMPv6 error of the future", icmp6(127)),
        told("ICMPv6 echo request", icmp6(128), MTU),
        told("first fragment", fragment(DF | MORE), MTU),
        silent("middle fragment", fragment(DF | MORE | 1)),
        silent("last fragment", fragment(DF | 1)),
        told("IPv6 first fragment", fragment6(1), MTU),
        silent("IPv6 last fragment", fragment6(8)),
    ]);
}

#[test]
fn options_and_extension_headers_are_quoted() {
    let Some(world) = World::new() else { return };
    // A router alert (RFC 2113), which makes the header 24 bytes.
    let mut packet = ip(true, UDP).with(&[&[0x94, 4, 0, 0][..], &[7; SIZE]].concat());
    packet[0] = 0x46;
    let v4 = ethernet(GATEWAY, MAC_A, [8, 0], &packet);
    let v6 = ip(false, 60);
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &fill(&v6, SIZE)].concat();
    world.check_all(&[
        told("IPv4 options", v4, MTU),
        told("IPv6 destination options", sent(&v6, &options), MTU),
    ]);
}

/// IPv6 needs 1280 bytes: where the way carries less, what is around the packet is fragmented.
#[test]
fn a_way_narrower_than_the_overlay() {
    let Some(world) = World::new() else { return };
    for (narrow, v4_told) in [(1400, 1400), (1250, 1250), (500, 500)] {
        for (prefix, prefix_len) in [("10.244.2.0", 96 + 24), ("fd00:2::", 64)] {
            let value = RouteValue {
                underlay: addr("10.9.0.2"),
                next_hop: addr("10.9.0.2"),
                ifindex: UPLINK,
                vni: DEFAULT_VNI,
                mac: VTEP[2],
                flags: 0,
                mtu: narrow,
                pad: [0; 2],
                hops: 0,
            };
            let key = RouteKey {
                prefix: addr(prefix),
                prefix_len,
            };
            world.datapath.routes().set(&key, &value).unwrap();
        }
        let v4 = ip(true, UDP);
        let frame = sent(&v4, &fill(&v4, usize::from(narrow) + 1));
        world.check(&told("IPv4", frame, v4_told));
        let v6 = ip(false, UDP);
        let v6_told = narrow.max(MIN_MTU_V6);
        let frame = |size| sent(&v6, &fill(&v6, size));
        world.check(&told("IPv6", frame(usize::from(v6_told) + 1), v6_told));
        // The host puts fragments together, so it needs all of them.
        let last = Ip {
            fragment: 0x0020,
            ..v4.clone()
        };
        world.check(&to_host("a small fragment", sent(&last, &[7; 16])));
        if narrow < MIN_MTU_V6 {
            let fragment = Ip {
                protocol: 44,
                ..v6.clone()
            };
            let payload = [&[UDP, 0, 0, 8][..], &[0; 4], &[7; 16]].concat();
            world.check(&to_host("a small IPv6 fragment", sent(&fragment, &payload)));
            let size = usize::from(narrow);
            world.check(&to_host(
                "IPv6 that the host wraps and fragments",
                frame(size + 1),
            ));
            world.check(&to_host(
                "the largest of these",
                frame(usize::from(MIN_MTU_V6)),
            ));
        }
    }
}

/// Each pod has its own limit, on each CPU.
#[test]
fn answers_are_limited() {
    let Some(world) = World::new() else { return };
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
    let ip = ip(true, UDP);
    let frame = sent(&ip, &fill(&ip, SIZE + 1));
    let case = |outcome| Case::new("too big", HOOK, frame.clone(), outcome);
    let mut answered = 0;
    let limited = (0..100_000).any(|_| {
        let before = world.counters();
        world.run(&case(Outcome::Done(TooBig)));
        let after = world.counters();
        let counts = |slot: u32| {
            let find = |list: &[(u32, oxlan_common::maps::Counter)]| {
                list.iter().find(|(s, _)| *s == slot).unwrap().1.packets
            };
            find(&after) - find(&before)
        };
        answered += counts(TooBig.slot());
        counts(TooBigLimited.slot()) == 1
    });
    assert!(limited, "{answered} answers and no limit");
    assert!(answered >= ANSWERS_AT_ONCE, "only {answered} answers");

    let other = Ip {
        src: addr("10.244.1.3"),
        ..ip.clone()
    };
    let frame = other.frame(GATEWAY, MAC_B, &fill(&ip, SIZE + 1));
    let case = Case::new(
        "another pod",
        (Program::FromPod, POD_B),
        frame,
        Outcome::Done(TooBig),
    );
    let (returned, _) = world.run(&case);
    assert_eq!(returned, REDIRECT);
}
