//! Tunnel packets that are refused.

use oxlan_common::addr::Mac;
use oxlan_common::counters::DropReason::{
    self, ForeignInnerSource, InnerNotIp, Malformed, NotOurPod, Truncated, TunnelPort, UnknownVtep,
    WrongInnerMac, WrongVni, WrongVxlanFlags,
};
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{Ip, addr, ethernet, udp};

use crate::case::{Case, Outcome};
use crate::tunnel::{HOOK, Tunnel, inner, inner_ips, row};
use crate::world::{VTEP, World};

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
                ip.frame(Mac::BROADCAST, VTEP[2], &payload),
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
                "IPv4 addresses in an IPv6 header",
                {
                    let ip = Ip::new("fd00:2::9", "fd00:1::2", 17);
                    let mut inner = inner(&ip);
                    inner[22..38].copy_from_slice(&addr("10.244.2.9").bytes);
                    inner[38..54].copy_from_slice(&addr("10.244.1.2").bytes);
                    inner
                },
                Malformed,
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
