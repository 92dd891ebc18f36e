//! What the host sends into the overlay.

use oxlan::datapath::Program;
use oxlan_common::counters::DropReason::{NoRoute, Truncated};
use oxlan_common::counters::Verdict::{Ignored, ToVtep};
use oxlan_tests::packet::{ICMPV6, Ip, UDP, ethernet, icmpv6, udp};

use crate::case::{Case, Outcome};
use crate::world::{OVERLAY, VTEP, World};

const HOOK: (Program, u32) = (Program::ToOverlay, OVERLAY);

#[test]
fn host_traffic() {
    let Some(world) = World::new() else { return };
    let payload = udp(1, 53, b"hello");
    for (src, own, far, unreachable, outside) in [
        (
            "10.244.1.0",
            "10.244.1.77",
            "10.244.2.9",
            "10.244.3.9",
            "10.244.9.9",
        ),
        (
            "fd00:1::",
            "fd00:1::77",
            "fd00:2::9",
            "fd00:3::9",
            "fd00:9::9",
        ),
    ] {
        let sent = |dst| Ip::new(src, dst, UDP).frame(VTEP[1], VTEP[1], &payload);
        let addressed =
            |dst, node: usize| Ip::new(src, dst, UDP).frame(VTEP[node], VTEP[1], &payload);
        let row = |name, dst, outcome| Case::new(name, HOOK, sent(dst), outcome);
        world.check_all(&[
            row("another node's pod", far, Outcome::Done(ToVtep)).out(addressed(far, 2)),
            // The kernel knows best when it has a route again.
            row("a node out of reach", unreachable, Outcome::Done(ToVtep))
                .out(addressed(unreachable, 3)),
            row("own pod CIDR", own, Outcome::Dropped(NoRoute)),
            row("nobody's", outside, Outcome::Dropped(NoRoute)),
        ]);
    }
}

#[test]
fn what_the_overlay_does_not_carry() {
    let Some(world) = World::new() else { return };
    let report = Ip::new("::", "ff02::16", ICMPV6);
    let report = report.frame(VTEP[1], VTEP[1], &icmpv6(&report, 143, &[0; 24]));
    let igmp = Ip::new("10.244.1.0", "224.0.0.22", 2).frame(VTEP[1], VTEP[1], &[0; 16]);
    let lldp = ethernet(VTEP[1], VTEP[1], [0x88, 0xcc], &[0; 40]);
    let short = ethernet(VTEP[1], VTEP[1], [8, 6], &[0; 10]);
    world.check_all(&[
        Case::new("listener report", HOOK, report, Outcome::Done(Ignored)),
        Case::new("IGMP", HOOK, igmp, Outcome::Done(Ignored)),
        Case::new("LLDP", HOOK, lldp, Outcome::Done(Ignored)),
        Case::new("too short", HOOK, short, Outcome::Dropped(Truncated)),
    ]);
}
