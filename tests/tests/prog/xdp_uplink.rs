//! What the uplink's driver receives, before there is a packet.
//!
//! That `xdp_uplink` decides as `from_uplink` does is checked with every row of that program's tables.

use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};
use aya::util::KernelVersion;
use oxlan_common::counters::Verdict;
use oxlan_tests::packet::{Ip, UDP, addr, udp};
use oxlan_tests::run::host;

use crate::case::{Case, Outcome, counted_slots, hex};
use crate::programs::Programs;
use crate::tunnel::{Tunnel, delivered, inner, inner_ips, row};
use crate::world::{MTU, UPLINK, VTEP, World};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// Returned value, and what is counted, of a frame.
type Expected = (u32, Vec<(u32, u64)>);

/// What XDP makes of bytes of which TC makes `outcome`.
fn expected(outcome: Outcome) -> Expected {
    match outcome {
        Outcome::Done(Verdict::FromVtep) => {
            let delivered = Outcome::Done(Verdict::FromVtepXdp);
            (XDP_REDIRECT, counted_slots(delivered))
        }
        // TC sees it again, and counts it.
        Outcome::Done(_) | Outcome::NotOurs => (XDP_PASS, vec![]),
        Outcome::Dropped(_) => (XDP_DROP, counted_slots(outcome)),
    }
}

impl Programs {
    /// Runs a row of `from_uplink` as a frame and compares everything.
    pub(crate) fn check_frame(&self, case: &Case) {
        let out = case.out.as_ref();
        // What XDP passes on it leaves as it is.
        let out = out.filter(|_| case.outcome == Outcome::Done(Verdict::FromVtep));
        let wanted = out.unwrap_or(&case.packet);
        self.check_frame_is(case.name, &case.packet, expected(case.outcome), wanted);
    }

    fn check_frame_is(&self, name: &str, frame: &[u8], expected: Expected, wanted: &[u8]) {
        let before = self.counters();
        let (returned, out) = self.run_frame(name, frame);
        let counted = self.counted_since(before);
        assert_eq!((returned, counted), expected, "{name} by XDP");
        assert_eq!(hex(&out), hex(wanted), "{name} by XDP: frame out");
    }

    fn run_frame(&self, name: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; 16384];
        let result = self.xdp().test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        });
        let result = result.expect(name);
        out.truncate(usize::try_from(result.data_size_out).expect("a size"));
        (result.return_value, out)
    }
}

/// A tunnel packet around one of this many bytes, and that as it is delivered.
fn sized(ip: &Ip, len: usize) -> (Vec<u8>, Vec<u8>) {
    let header = if ip.src.is_v4() { 20 } else { 40 };
    let payload = udp(1, 53, &vec![7; len - header - 8]);
    let ttl = ip.ttl - 1;
    let delivered = Ip { ttl, ..ip.clone() };
    (
        Tunnel::around(ip.frame(VTEP[1], VTEP[2], &payload)).frame(),
        delivered.frame(crate::world::MAC_A, crate::world::GATEWAY, &payload),
    )
}

#[test]
fn frames_up_to_the_mtu_are_redirected() {
    let Some(world) = World::new() else { return };
    let redirected = || expected(Outcome::Done(Verdict::FromVtep));
    for ip in inner_ips() {
        let (frame, out) = sized(&ip, usize::from(MTU));
        world.check_frame_is("the largest", &frame, redirected(), &out);
    }
}

#[test]
fn a_pod_without_polling_gets_packets() {
    let Some(world) = World::new() else { return };
    for dst in ["10.244.1.3", "fd00:1::3"] {
        let src = if dst.contains(':') {
            "fd00:2::9"
        } else {
            "10.244.2.9"
        };
        let frame = Tunnel::around(inner(&Ip::new(src, dst, UDP))).frame();
        world.check_frame_is("pod B", &frame, (XDP_PASS, vec![]), &frame);
    }
}

/// A pod's interface drops what is longer than its MTU: such frames go by the overlay device, and the
/// frames behind them follow.
#[test]
fn a_frame_that_is_too_long_takes_its_flow_along() {
    let Some(world) = World::new() else { return };
    crate::from_uplink::pin_to_one_cpu();
    let [ip, _] = inner_ips();
    let (long, _) = sized(&ip, usize::from(MTU) + 1);
    let tunnel = Tunnel::around(inner(&ip));
    let direct = row("later", &tunnel, Outcome::Done(Verdict::FromVtep)).out(delivered(&ip));
    world.check_frame(&direct);
    world.check_frame_is("too long", &long, (XDP_PASS, vec![]), &long);
    // The slow path of both hooks: TC hands the follower to the overlay device, for two ticks, in
    // which a slow machine does not do much.
    let follower = row("follower", &tunnel, Outcome::Done(Verdict::ToOverlay));
    let followed = (0..200).any(|_| {
        let before = world.counters();
        world.run_frame("too long", &long);
        world.run(&follower);
        world.counted_since(before) == counted_slots(follower.outcome)
    });
    assert!(followed, "no packet right behind a long frame went its way");
    let limit = std::time::Duration::from_secs(2);
    oxlan_tests::wait::until_true(limit, "the direct way is free again", || {
        Ok(world.run_frame("later", &direct.packet).0 == XDP_REDIRECT)
    })
    .unwrap();
}

/// A jumbo frame lies in several buffers; its headers are in the first.
#[test]
fn frames_in_several_buffers() {
    let Some(world) = World::new() else { return };
    let config = oxlan_common::maps::Config {
        mtu: 8950,
        ..crate::world::config()
    };
    world.datapath.set_config(&config).unwrap();
    for ip in inner_ips() {
        let (frame, out) = sized(&ip, 8950);
        if KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(6, 3, 0)) {
            let redirected = expected(Outcome::Done(Verdict::FromVtep));
            world.check_frame_is("jumbo", &frame, redirected, &out);
        } else {
            world.check_frame_is("jumbo", &frame, (XDP_PASS, vec![]), &frame);
        }
    }
}

/// Real frames, which the kernel redirects: they arrive in the pod if its interface polls.
#[test]
fn live_frames_arrive() {
    let Some(world) = World::new() else { return };
    let netns = format!("oxlan-live-{}", std::process::id());
    for line in [
        format!("ip netns add {netns}"),
        format!("ip link set p-pod-a netns {netns}"),
        format!("ip netns exec {netns} ethtool -K p-pod-a gro on"),
        format!("ip -n {netns} link set p-pod-a up"),
        "ip link set pod-a up".to_owned(),
        "ip link set up0 up".to_owned(),
        "ip link set p-up0 up".to_owned(),
    ] {
        host(&line).unwrap();
    }
    let received = || -> anyhow::Result<u64> {
        let file = "/sys/class/net/p-pod-a/statistics/rx_packets";
        let line = format!("ip netns exec {netns} cat {file}");
        Ok(host(&line)?.trim().parse()?)
    };
    // Every frame of a batch is used once: the program's changes stay in it.
    const FRAMES: u32 = 64;
    let before = received().unwrap();
    let frame = Tunnel::around(inner(&Ip {
        dst: addr("10.244.1.2"),
        ..inner_ips()[0].clone()
    }))
    .frame();
    let run = world.xdp().test_run(TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&live_context(&frame)),
        repeat: FRAMES,
        attrs: TestRunAttrs::new().xdp_live_frames(FRAMES),
        ..TestRunOptions::new()
    });
    run.unwrap();
    let limit = oxlan_tests::wait::SOON;
    let arrived = oxlan_tests::wait::until_true(limit, "all frames in the pod", || {
        Ok(received()? >= before + u64::from(FRAMES))
    });
    host(&format!("ip netns del {netns}")).unwrap();
    arrived.unwrap();
}

/// `struct xdp_md` (include/uapi/linux/bpf.h): the whole frame is data, and came in by the uplink.
fn live_context(frame: &[u8]) -> [u8; 24] {
    let mut context = [0; 24];
    let end = u32::try_from(frame.len()).expect("a length");
    context[4..8].copy_from_slice(&end.to_ne_bytes());
    context[12..16].copy_from_slice(&UPLINK.to_ne_bytes());
    context
}
