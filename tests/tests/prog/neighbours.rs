//! ARP and neighbour discovery.

use oxlan::datapath::Program;
use oxlan_common::addr::Mac;
use oxlan_common::counters::DropReason::{ForeignMac, ForeignSource, Malformed};
use oxlan_common::counters::Verdict::{ArpReply, Ignored, NdReply, ToHost};
use oxlan_tests::packet::{ICMPV6, Ip, addr, arp, ethernet, icmpv6, solicitation};

use crate::case::{Case, Outcome};
use crate::world::{GATEWAY, MAC_A, MAC_B, OTHER_MAC, POD_A, World};

const HOOK: (Program, u32) = (Program::FromPod, POD_A);
const ARP: [u8; 2] = [0x08, 0x06];

fn request(sender: (Mac, &str), target: &str) -> Vec<u8> {
    let message = arp(1, sender, (Mac::ZERO, target));
    ethernet(Mac::BROADCAST, sender.0, ARP, &message)
}

#[test]
fn arp_requests() {
    let Some(world) = World::new() else { return };
    let pod_a = (MAC_A, "10.244.1.2");
    for target in ["169.254.1.1", "10.244.1.3", "10.244.2.9", "10.244.1.0"] {
        let reply = ethernet(MAC_A, GATEWAY, ARP, &arp(2, (GATEWAY, target), pod_a));
        let case = Case::new(
            "answered",
            HOOK,
            request(pod_a, target),
            Outcome::Done(ArpReply),
        );
        world.check(&case.out(reply));
    }
    let row = |name, packet, outcome| Case::new(name, HOOK, packet, outcome);
    let answer = ethernet(GATEWAY, MAC_A, ARP, &arp(2, pod_a, (GATEWAY, "10.244.1.0")));
    let mut cut = request(pod_a, "169.254.1.1");
    cut.truncate(40);
    let mut reverse = request(pod_a, "169.254.1.1");
    reverse[21] = 3;
    world.check_all(&[
        row(
            "own address",
            request(pod_a, "10.244.1.2"),
            Outcome::Done(Ignored),
        ),
        row(
            "stranger",
            request(pod_a, "192.0.2.1"),
            Outcome::Done(Ignored),
        ),
        row(
            "probe",
            request((MAC_A, "0.0.0.0"), "10.244.1.3"),
            Outcome::Done(Ignored),
        ),
        row("answer to the host", answer, Outcome::Done(ToHost)),
        row(
            "another pod's address",
            request((MAC_A, "10.244.1.3"), "169.254.1.1"),
            Outcome::Dropped(ForeignSource),
        ),
        row(
            "another MAC",
            request((OTHER_MAC, "10.244.1.2"), "169.254.1.1"),
            Outcome::Dropped(ForeignMac),
        ),
        row(
            "MACs that differ",
            ethernet(
                Mac::BROADCAST,
                MAC_A,
                ARP,
                &arp(1, (MAC_B, "10.244.1.2"), pod_a),
            ),
            Outcome::Dropped(ForeignMac),
        ),
        row("truncated", cut, Outcome::Dropped(Malformed)),
        row("reverse ARP", reverse, Outcome::Dropped(Malformed)),
    ]);
}

fn ask(src: &str, dst: &str, target: &str) -> Vec<u8> {
    let ip = Ip {
        ttl: 255,
        ..Ip::new(src, dst, ICMPV6)
    };
    ip.frame(GATEWAY, MAC_A, &solicitation(&ip, target, MAC_A))
}

#[test]
fn neighbour_solicitations() {
    let Some(world) = World::new() else { return };
    for src in ["fd00:1::2", "fe80::5"] {
        for target in ["fe80::1", "fd00:1::3", "fd00:2::9", "fd00:1::"] {
            let answer = Ip {
                ttl: 255,
                ..Ip::new(target, src, ICMPV6)
            };
            let body = [
                &[0xe0, 0, 0, 0][..],
                &addr(target).bytes,
                &[2, 1],
                &GATEWAY.bytes,
            ]
            .concat();
            let message = icmpv6(&answer, 136, &body);
            let case = Case::new(
                "answered",
                HOOK,
                ask(src, "ff02::1:ff00:1", target),
                Outcome::Done(NdReply),
            );
            world.check(&case.out(answer.frame(MAC_A, GATEWAY, &message)));
        }
    }
}

#[test]
fn a_short_solicitation_gets_a_whole_answer() {
    let Some(world) = World::new() else { return };
    let ip = Ip {
        ttl: 255,
        ..Ip::new("fd00:1::2", "fe80::1", ICMPV6)
    };
    let body = [&[0; 4][..], &addr("fe80::1").bytes].concat();
    let frame = ip.frame(GATEWAY, MAC_A, &icmpv6(&ip, 135, &body));
    let case = Case::new("no option", HOOK, frame, Outcome::Done(NdReply));
    let (_, packet) = world.run(&case);
    assert_eq!(packet.len(), 86, "grown by the option");
    assert_eq!(packet[78..], [2, 1, 0x0e, 0x6f, 0x78, 0x6c, 0x61, 0x6e]);
}

#[test]
fn what_is_not_answered() {
    let Some(world) = World::new() else { return };
    let row = |name, packet, outcome| Case::new(name, HOOK, packet, outcome);
    let mut routed = ask("fd00:1::2", "fe80::1", "fe80::1");
    routed[14 + 7] = 254;
    let mut cut = ask("fd00:1::2", "fe80::1", "fe80::1");
    cut.truncate(14 + 40 + 20);
    cut[18..20].copy_from_slice(&[0, 20]);
    let advertisement = |src| {
        let ip = Ip {
            ttl: 255,
            ..Ip::new(src, "fd00:1::", ICMPV6)
        };
        let body = [&[0x60, 0, 0, 0][..], &addr(src).bytes].concat();
        ip.frame(GATEWAY, MAC_A, &icmpv6(&ip, 136, &body))
    };
    world.check_all(&[
        row(
            "duplicate address detection",
            ask("::", "ff02::1:ff00:2", "fd00:1::2"),
            Outcome::Done(Ignored),
        ),
        row(
            "own address",
            ask("fe80::5", "ff02::1:ff00:2", "fd00:1::2"),
            Outcome::Done(Ignored),
        ),
        row(
            "stranger",
            ask("fd00:1::2", "ff02::1:ff00:2", "2001:db8::1"),
            Outcome::Done(Ignored),
        ),
        row("routed", routed, Outcome::Dropped(Malformed)),
        row("truncated", cut, Outcome::Dropped(Malformed)),
        row(
            "multicast target",
            ask("fd00:1::2", "fe80::1", "ff02::1"),
            Outcome::Dropped(Malformed),
        ),
        row(
            "another pod's address",
            ask("fd00:1::3", "fe80::1", "fe80::1"),
            Outcome::Dropped(ForeignSource),
        ),
        row(
            "answer to the host",
            advertisement("fd00:1::2"),
            Outcome::Done(ToHost),
        ),
        row(
            "link-local answer",
            advertisement("fe80::5"),
            Outcome::Done(Ignored),
        ),
    ]);
}
