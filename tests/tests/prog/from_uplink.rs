//! What the uplink receives.

use oxlan::datapath::Program;
use oxlan_common::counters::DropReason;
use oxlan_common::counters::DropReason::{
    CongestionMark, ForeignInnerSource, InnerNotIp, Malformed, NotOurPod, Truncated, TunnelPort,
    UnknownVtep, WrongInnerMac, WrongVni, WrongVxlanFlags,
};
use oxlan_common::counters::Verdict::{FromVtep, ToOverlay};
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{Ip, UDP, VXLAN_I, addr, ethernet, udp, vxlan};

use crate::world::{Case, GATEWAY, MAC_A, OTHER_MAC, Outcome, UPLINK, UPLINK_MAC, VTEP, World};

const HOOK: (Program, u32) = (Program::FromUplink, UPLINK);

/// A tunnel packet, right in everything that is not changed.
struct Tunnel {
    outer: Ip,
    port: u16,
    flags: u32,
    vni: u32,
    inner: Vec<u8>,
}

impl Tunnel {
    fn around(inner: Vec<u8>) -> Self {
        Self {
            outer: Ip::new("10.9.0.2", "10.9.0.1", UDP),
            port: DEFAULT_PORT,
            flags: VXLAN_I,
            vni: 1,
            inner,
        }
    }

    fn frame(&self) -> Vec<u8> {
        let payload = udp(40000, self.port, &vxlan(self.flags, self.vni, &self.inner));
        self.outer.frame(UPLINK_MAC, OTHER_MAC, &payload)
    }
}

fn inner(ip: &Ip) -> Vec<u8> {
    ip.frame(VTEP[1], VTEP[2], &udp(1, 53, b"hello"))
}

/// Packets from the other node to pod A, one per family.
fn inner_ips() -> [Ip; 2] {
    [
        Ip::new("10.244.2.9", "10.244.1.2", UDP),
        Ip::new("fd00:2::9", "fd00:1::2", UDP),
    ]
}

fn delivered(ip: &Ip) -> Vec<u8> {
    let ip = Ip {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    ip.frame(MAC_A, GATEWAY, &udp(1, 53, b"hello"))
}

fn row(name: &'static str, tunnel: &Tunnel, outcome: Outcome) -> Case {
    Case::new(name, HOOK, tunnel.frame(), outcome)
}

#[test]
fn packets_for_pods() {
    let Some(world) = World::new() else { return };
    for ip in inner_ips() {
        let tunnel = Tunnel::around(inner(&ip));
        world.check(&row("a pod's", &tunnel, Outcome::Done(FromVtep)).out(delivered(&ip)));
    }
    let host = Ip::new("10.9.0.2", "10.244.1.2", UDP);
    let tunnel = Tunnel::around(inner(&host));
    world.check(&row("the node's own", &tunnel, Outcome::Done(FromVtep)).out(delivered(&host)));
    let narrow = Ip::new("10.244.2.130", "10.244.1.2", UDP);
    let mut tunnel = Tunnel::around(inner(&narrow));
    tunnel.outer.src = addr("10.9.0.3");
    world.check(&row("longer prefix", &tunnel, Outcome::Done(FromVtep)).out(delivered(&narrow)));
}

#[test]
fn congestion_marks() {
    let Some(world) = World::new() else { return };
    for ip in inner_ips() {
        for dscp in [0, 0xb8_u8] {
            for (outer, before, after) in [
                (0b00, 0b10, 0b10),
                (0b10, 0b10, 0b10),
                (0b01, 0b10, 0b01),
                (0b11, 0b10, 0b11),
                (0b11, 0b01, 0b11),
                (0b10, 0b11, 0b11),
                (0b10, 0b00, 0b00),
            ] {
                let marked = |ecn| Ip {
                    tos: dscp | ecn,
                    ..ip.clone()
                };
                let mut tunnel = Tunnel::around(inner(&marked(before)));
                tunnel.outer.tos = outer;
                let case = row("marks", &tunnel, Outcome::Done(FromVtep));
                world.check(&case.out(delivered(&marked(after))));
            }
        }
        let mut tunnel = Tunnel::around(inner(&ip));
        tunnel.outer.tos = 0b11;
        world.check(&row(
            "not capable",
            &tunnel,
            Outcome::Dropped(CongestionMark),
        ));
    }
}

#[test]
fn what_the_overlay_device_gets() {
    let Some(world) = World::new() else { return };
    let aside = Outcome::Done(ToOverlay);
    for ip in inner_ips() {
        let v6 = !ip.src.is_v4();
        let to = |dst| {
            let ip = Ip {
                dst: addr(dst),
                ..ip.clone()
            };
            Tunnel::around(inner(&ip))
        };
        let last_hop = Ip {
            ttl: 1,
            ..ip.clone()
        };
        let mut checksum = Tunnel::around(inner(&ip)).frame();
        checksum[40] = 1;
        world.check_all(&[
            row(
                "for the host",
                &to(if v6 { "fd00:1::" } else { "10.244.1.0" }),
                aside,
            ),
            row(
                "no such pod",
                &to(if v6 { "fd00:1::77" } else { "10.244.1.77" }),
                aside,
            ),
            row("ends here", &Tunnel::around(inner(&last_hop)), aside),
            Case::new("with a checksum", HOOK, checksum, aside),
        ]);
    }
}

#[test]
fn aggregates_and_what_follows_them() {
    let Some(world) = World::new() else { return };
    let [ip, _] = inner_ips();
    let tunnel = Tunnel::around(inner(&ip));
    let aggregate = row("an aggregate", &tunnel, Outcome::Done(ToOverlay)).gso(500);
    let direct = row("later", &tunnel, Outcome::Done(FromVtep)).out(delivered(&ip));
    world.check(&direct);
    // Both on one CPU, as one flow's packets are: the mark is per CPU.
    pin_to_one_cpu();
    let follower = row("a follower", &tunnel, Outcome::Done(ToOverlay));
    let followed = (0..20).any(|_| {
        world.check(&aggregate);
        let before = world.counters();
        world.run(&follower);
        let slot = usize::try_from(ToOverlay.slot()).unwrap();
        world.counters()[slot].1.packets == before[slot].1.packets + 1
    });
    assert!(followed, "no packet right behind an aggregate went its way");
    let limit = std::time::Duration::from_secs(2);
    oxlan_tests::wait::until_true(limit, "the direct way is free again", || {
        Ok(world.run(&direct).0 == crate::world::REDIRECT)
    })
    .unwrap();
}

fn pin_to_one_cpu() {
    let mut set = nix::sched::CpuSet::new();
    set.set(0).expect("a CPU");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("CPU 0");
}

#[test]
fn what_is_not_ours() {
    let Some(world) = World::new() else { return };
    let [ip, _] = inner_ips();
    let ours = Tunnel::around(inner(&ip));
    let with = |change: &dyn Fn(&mut Tunnel)| {
        let mut tunnel = Tunnel::around(inner(&ip));
        change(&mut tunnel);
        tunnel.frame()
    };
    let mut options = ours.frame();
    options[14] = 0x46;
    let mut for_others = ours.frame();
    for_others[..6].copy_from_slice(&OTHER_MAC.bytes);
    let tagged = ethernet(UPLINK_MAC, OTHER_MAC, [0x81, 0], &ours.frame()[10..]);
    let short = ethernet(UPLINK_MAC, OTHER_MAC, [8, 6], &[0; 20]);
    let v6 = Ip::new("fd00:9::2", "fd00:9::1", UDP);
    let v6 = v6.frame(UPLINK_MAC, OTHER_MAC, &udp(1, DEFAULT_PORT, &[0; 60]));
    for (name, packet) in [
        ("another port", with(&|t| t.port = 4789)),
        ("another address", with(&|t| t.outer.dst = addr("10.9.0.7"))),
        ("TCP", with(&|t| t.outer.protocol = 6)),
        ("first fragment", with(&|t| t.outer.fragment = 0x2000)),
        ("last fragment", with(&|t| t.outer.fragment = 1)),
        ("IPv4 options", options),
        ("another MAC", for_others),
        ("a VLAN", tagged),
        ("too short", short),
        ("IPv6", v6),
    ] {
        world.check(&Case::new(name, HOOK, packet, Outcome::NotOurs));
    }
}

#[test]
fn refused_tunnel_headers() {
    let Some(world) = World::new() else { return };
    let [ip, _] = inner_ips();
    let drop = |name, reason, change: &dyn Fn(&mut Tunnel)| {
        let mut tunnel = Tunnel::around(inner(&ip));
        change(&mut tunnel);
        row(name, &tunnel, Outcome::Dropped(reason))
    };
    let cut = |name, len| {
        let mut frame = Tunnel::around(inner(&ip)).frame();
        frame.truncate(len);
        Case::new(name, HOOK, frame, Outcome::Dropped(Truncated))
    };
    let mut udp_longer = Tunnel::around(inner(&ip)).frame();
    udp_longer[38] = 1;
    let mut udp_short = Tunnel::around(inner(&ip)).frame();
    udp_short[38..40].copy_from_slice(&[0, 20]);
    let case = |name, frame, reason| Case::new(name, HOOK, frame, Outcome::Dropped(reason));
    world.check_all(&[
        drop("no flags", WrongVxlanFlags, &|t| t.flags = 0),
        drop("an unknown flag", WrongVxlanFlags, &|t| t.flags |= 1 << 26),
        drop("a reserved bit", WrongVxlanFlags, &|t| t.flags |= 1),
        drop("another VNI", WrongVni, &|t| t.vni = 2),
        drop("a stranger", UnknownVtep, &|t| {
            t.outer.src = addr("10.9.0.8")
        }),
        cut("ends in UDP", 45),
        cut("ends in VXLAN", 49),
        cut("ends in the inner Ethernet header", 60),
        cut("ends in the inner IP header", 70),
        case("UDP longer than IP", udp_longer, Malformed),
        case("UDP too short", udp_short, Truncated),
    ]);
}

#[test]
fn refused_inner_packets() {
    let Some(world) = World::new() else { return };
    for ip in inner_ips() {
        let v6 = !ip.src.is_v4();
        let choose = |v4, six| addr(if v6 { six } else { v4 });
        let from = |src| Ip { src, ..ip.clone() };
        let to = |dst| Ip { dst, ..ip.clone() };
        let drop = |name, inner: Vec<u8>, reason: DropReason| {
            row(name, &Tunnel::around(inner), Outcome::Dropped(reason))
        };
        let payload = udp(1, 53, b"hello");
        let tunnel_port = to(choose("10.244.1.0", "fd00:1::"));
        let tunnel_port = tunnel_port.frame(VTEP[1], VTEP[2], &udp(1, DEFAULT_PORT, &[]));
        world.check_all(&[
            drop(
                "another node's pod",
                inner(&from(choose("10.244.3.9", "fd00:3::9"))),
                ForeignInnerSource,
            ),
            drop(
                "our own pod",
                inner(&from(choose("10.244.1.3", "fd00:1::3"))),
                ForeignInnerSource,
            ),
            drop(
                "outside",
                inner(&from(choose("192.0.2.1", "2001:db8::1"))),
                ForeignInnerSource,
            ),
            drop(
                "another node's address",
                inner(&from(choose("10.9.0.3", "fd00:9::3"))),
                ForeignInnerSource,
            ),
            drop(
                "a longer prefix of another node",
                inner(&from(choose("10.244.2.130", "fd00:2:0:0:ff::9"))),
                ForeignInnerSource,
            ),
            drop(
                "another VTEP's MAC",
                ip.frame(VTEP[3], VTEP[2], &payload),
                WrongInnerMac,
            ),
            drop(
                "broadcast",
                ip.frame(oxlan_common::addr::Mac::BROADCAST, VTEP[2], &payload),
                WrongInnerMac,
            ),
            drop(
                "ARP",
                ethernet(VTEP[1], VTEP[2], [8, 6], &[0; 40]),
                InnerNotIp,
            ),
            drop(
                "to another node",
                inner(&to(choose("10.244.3.9", "fd00:3::9"))),
                NotOurPod,
            ),
            drop(
                "to the world",
                inner(&to(choose("192.0.2.1", "2001:db8::1"))),
                NotOurPod,
            ),
            drop(
                "multicast",
                inner(&to(choose("224.0.0.1", "ff02::1"))),
                NotOurPod,
            ),
            drop("the host's tunnel port", tunnel_port, TunnelPort),
            drop(
                "length beyond the end",
                inner(&Ip {
                    lie: 1,
                    ..ip.clone()
                }),
                Truncated,
            ),
            drop(
                "wrong version",
                {
                    let mut inner = inner(&ip);
                    inner[14] ^= 0x20;
                    inner
                },
                Malformed,
            ),
        ]);
    }
}
