//! What the uplink receives.

use oxlan_common::counters::DropReason::CongestionMark;
use oxlan_common::counters::Verdict::{FromVtep, ToOverlay};
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{Ip, UDP, addr, ethernet, udp};

use crate::case::{Case, Outcome, REDIRECT};
use crate::tunnel::{HOOK, Tunnel, decapsulated_ips, delivered, inner, inner_ips, row};
use crate::world::{OTHER_MAC, UPLINK_MAC, World};

#[test]
fn packets_for_pods() {
    let Some(world) = World::new() else { return };
    for ip in decapsulated_ips() {
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
    for ip in decapsulated_ips() {
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
        let mut wrong = Tunnel::around(inner(&ip)).frame();
        wrong[40] = 1;
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
            Case::new("with a wrong checksum", HOOK, wrong, aside),
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
        Ok(world.run(&direct).0 == REDIRECT)
    })
    .unwrap();
}

pub(crate) fn pin_to_one_cpu() {
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
    let v6 = |dst, protocol, payload: &[u8]| {
        let ip = Ip::new("fd00:9::2", dst, protocol);
        ip.frame(UPLINK_MAC, OTHER_MAC, payload)
    };
    let to_port = udp(1, DEFAULT_PORT, &[0; 60]);
    let extended = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &to_port].concat();
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
        ("another IPv6 address", v6("fd00:9::7", UDP, &to_port)),
        ("an IPv6 extension header", v6("fd00:9::1", 60, &extended)),
        ("an IPv6 fragment", v6("fd00:9::1", 44, &extended)),
        ("an IPv4 address in IPv6", v4_mapped()),
    ] {
        world.check(&Case::new(name, HOOK, packet, Outcome::NotOurs));
    }
}

/// VXLAN over IPv6 from `::ffff:10.9.0.2`, which must not pass for the node 10.9.0.2.
fn v4_mapped() -> Vec<u8> {
    let ip = Ip::new("fd00:9::2", "fd00:9::1", UDP);
    let mut frame = ip.frame(UPLINK_MAC, OTHER_MAC, &udp(1, DEFAULT_PORT, &[0; 60]));
    frame[22..38].copy_from_slice(&addr("10.9.0.2").bytes);
    frame
}
