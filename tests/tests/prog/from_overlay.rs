//! What the overlay device has decapsulated.
//!
//! `BPF_PROG_TEST_RUN` cannot give a packet tunnel metadata, so real tunnel packets go through a
//! real VXLAN device: sent to ourselves, from addresses that stand for other nodes.

use std::time::Duration;

use nix::net::if_::if_nametoindex;
use oxlan::datapath::Program;
use oxlan_common::counters::DropReason::{
    ForeignInnerSource, InnerNotIp, Malformed, NoTunnelMetadata, NotOurPod, Truncated, TunnelPort,
    UnknownVtep, WrongInnerMac, WrongVni,
};
use oxlan_common::counters::Verdict::{FromVtep, ToHost};
use oxlan_common::wire::DEFAULT_PORT;
use oxlan_tests::packet::{Ip, UDP, VXLAN_I, addr, ethernet, udp, vxlan};
use oxlan_tests::run::host;
use oxlan_tests::traffic::UdpSocket;

use crate::case::{Case, Outcome};
use crate::world::{OVERLAY, OwnWorld, VTEP, World};

/// A world whose overlay device is a real one with `from_overlay`, and where all nodes are at home.
fn live() -> Option<OwnWorld> {
    let world = OwnWorld::new()?;
    for line in [
        "ip link set lo up",
        "ip link del oxlan0",
        "ip link add oxlan0 index 104 address 0e:00:0a:09:00:01 type vxlan external dstport 8472",
        "ip link set oxlan0 up",
        "ip addr add 10.9.0.1/32 dev lo",
        "ip addr add 10.9.0.2/32 dev lo",
        "ip addr add 10.9.0.8/32 dev lo",
    ] {
        host(line).unwrap();
    }
    assert_eq!(if_nametoindex("oxlan0"), Ok(OVERLAY));
    let attached = world
        .datapath
        .attach(Program::FromOverlay, "oxlan0", OVERLAY);
    attached.expect("from_overlay attaches");
    Some(world)
}

/// Sends an inner frame from a node, and waits until it is counted as expected and nothing else is.
fn check(world: &OwnWorld, name: &str, from: &str, vni: u32, inner: &[u8], outcome: Outcome) {
    let slot = match outcome {
        Outcome::Done(verdict) => verdict.slot(),
        Outcome::Dropped(reason) => reason.slot(),
        Outcome::NotOurs => unreachable!("everything is counted here"),
    };
    let before = world.counters();
    let socket = UdpSocket::bind((from, 0)).expect(name);
    let packet = vxlan(VXLAN_I, vni, inner);
    socket
        .send_to(&packet, ("10.9.0.1", DEFAULT_PORT))
        .expect(name);
    let changes = || {
        let pairs = world.counters().into_iter().zip(&before);
        pairs
            .filter(|((_, now), (_, before))| now.packets != before.packets)
            .map(|((slot, now), (_, before))| (slot, now.packets - before.packets))
            .collect::<Vec<_>>()
    };
    let counted =
        oxlan_tests::wait::until_true(Duration::from_secs(2), name, || Ok(!changes().is_empty()));
    counted.unwrap();
    assert_eq!(changes(), [(slot, 1)], "{name}");
}

#[test]
fn inner_packets() {
    let Some(world) = live() else { return };
    let payload = udp(1, 53, b"hello");
    for (src, pod, node, unknown, last) in [
        (
            "10.244.2.9",
            "10.244.1.2",
            "10.244.1.0",
            "10.244.1.77",
            "10.244.3.9",
        ),
        (
            "fd00:2::9",
            "fd00:1::2",
            "fd00:1::",
            "fd00:1::77",
            "fd00:3::9",
        ),
    ] {
        let frame = |ip: &Ip, payload: &[u8]| ip.frame(VTEP[1], VTEP[2], payload);
        let to = |dst| Ip::new(src, dst, UDP);
        let done = |name, ip: &Ip, verdict| {
            check(
                &world,
                name,
                "10.9.0.2",
                1,
                &frame(ip, &payload),
                Outcome::Done(verdict),
            );
        };
        done("to a pod", &to(pod), FromVtep);
        done("to the host", &to(node), ToHost);
        done("to nobody", &to(unknown), ToHost);
        done("ends here", &Ip { ttl: 1, ..to(pod) }, ToHost);
        let refused = |name, inner: &[u8], reason| {
            check(&world, name, "10.9.0.2", 1, inner, Outcome::Dropped(reason));
        };
        let foreign = Ip {
            src: addr(last),
            ..to(pod)
        };
        refused(
            "another node's pod",
            &frame(&foreign, &payload),
            ForeignInnerSource,
        );
        refused("another node's", &frame(&to(last), &payload), NotOurPod);
        let tunnel = udp(1, DEFAULT_PORT, &[]);
        refused("the tunnel port", &frame(&to(node), &tunnel), TunnelPort);
        refused(
            "cut short",
            &frame(&Ip { lie: 1, ..to(pod) }, &payload),
            Truncated,
        );
        let other_mac = to(pod).frame(VTEP[3], VTEP[2], &payload);
        refused("another VTEP's MAC", &other_mac, WrongInnerMac);
        let mut version = frame(&to(pod), &payload);
        version[14] ^= 0x20;
        refused("wrong version", &version, Malformed);
    }
}

#[test]
fn tunnels() {
    let Some(world) = live() else { return };
    let inner = Ip::new("10.244.2.9", "10.244.1.2", UDP);
    let inner = inner.frame(VTEP[1], VTEP[2], &udp(1, 53, b"hello"));
    let refused = |name, from, vni, inner: &[u8], reason| {
        check(&world, name, from, vni, inner, Outcome::Dropped(reason));
    };
    refused("another VNI", "10.9.0.2", 2, &inner, WrongVni);
    refused("a stranger", "10.9.0.8", 1, &inner, UnknownVtep);
    let arp = ethernet(VTEP[1], VTEP[2], [8, 6], &[0; 40]);
    refused("ARP", "10.9.0.2", 1, &arp, InnerNotIp);
    // The kernel takes the tag out of the bytes before the program sees them.
    let tag = [0x81, 0, 0, 5];
    let tagged = [&inner[..12], &tag, &inner[12..]].concat();
    refused("a VLAN", "10.9.0.2", 1, &tagged, InnerNotIp);
}

#[test]
fn a_changed_mac_of_the_device_loses_nothing() {
    let Some(world) = live() else { return };
    for line in [
        "ip addr add 10.244.1.0/32 dev oxlan0",
        "ip route add 10.244.2.0/24 dev oxlan0",
        "ip link set oxlan0 address 02:00:00:00:00:77",
    ] {
        host(line).unwrap();
    }
    let receiver = UdpSocket::bind(("10.244.1.0", 5353)).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let inner = Ip::new("10.244.2.9", "10.244.1.0", UDP);
    let inner = inner.frame(VTEP[1], VTEP[2], &udp(1, 5353, b"hello"));
    let outcome = Outcome::Done(ToHost);
    check(&world, "to the host", "10.9.0.2", 1, &inner, outcome);
    let mut bytes = [0; 16];
    let len = receiver.recv(&mut bytes).expect("the host gets it");
    assert_eq!(&bytes[..len], b"hello");
}

#[test]
fn without_metadata() {
    let Some(world) = World::new() else { return };
    let hook = (Program::FromOverlay, OVERLAY);
    let ip = Ip::new("10.244.2.9", "10.244.1.2", UDP);
    let frame = ip.frame(VTEP[1], VTEP[2], &udp(1, 53, &[]));
    let short = ethernet(VTEP[1], VTEP[2], [8, 6], &[0; 10]);
    world.check_all(&[
        Case::new("no tunnel", hook, frame, Outcome::Dropped(NoTunnelMetadata)),
        Case::new("too short", hook, short, Outcome::Dropped(Truncated)),
    ]);
}
