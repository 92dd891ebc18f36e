//! XDP with live frames: the kernel feeds frames to a program as a driver would, and carries out
//! what it says (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). Packets per second on one core, beside
//! the least that can be done with a frame that leaves by another device.
//!
//! The kernel uses a frame again without undoing what programs have written, so for both programs the
//! headers are written anew before each run.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use oxlan::datapath::Program;
use oxlan_common::bench::HEADERS;
use oxlan_common::counters::{DropReason, Verdict};

use super::super::figures::{Figures, Measure};
use super::super::{Effort, Progress};
use super::node::{self, TestNode};
use super::{SIZES, Way, frames, pin_to_one_cpu};
use crate::binaries::bench_object;
use crate::netns::Netns;
use crate::scope::Scope;

/// The bare redirection among the figures, and ours: decapsulate, and deliver to a pod.
pub(in crate::bench) const REDIRECT: &str = "bare XDP_REDIRECT";
pub(in crate::bench) const UPLINK: &str = "xdp_uplink of oxlan: to a pod";
/// Forged VXLAN refused by XDP, and by TC, for which the kernel makes a packet of each frame.
pub(in crate::bench) const DROP: &str = "xdp_uplink of oxlan: drop, VXLAN of a stranger";
pub(in crate::bench) const DROP_BY_TC: &str = "from_uplink of oxlan: drop, VXLAN of a stranger";

/// Frames per batch, as many as NAPI takes at a time.
const BATCH: u32 = 64;

pub(super) fn measure(
    effort: Effort,
    scope: &Scope,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let node = scope.netns("live")?;
    let pod = scope.netns("live-pod")?;
    node.inside(node::add_devices)?;
    node.run_all(&[
        &format!("ip link set p-pod0 netns {}", pod.name()),
        "ip link set pod0 up",
        "ip link set eth0 up",
        "ip link set p-eth0 up",
    ])?;
    pod.run("ip link set p-pod0 up")?;
    let _end = pod.inside(end)?;
    let pins = scope.bpf_dir().join("live");
    let ours = TestNode::start(&pins, SIZES[0])?;
    node.inside(|| ours.attach(Program::FromUplink, "eth0", node::UPLINK))?;
    let mut programs = load(&ours)?;
    // The first round only warms up.
    for round in 0..=effort.rounds() {
        for (program, frame, subject) in cases() {
            let rate = rate(&node, &mut programs, program, &frame, effort.frames())?;
            if round > 0 {
                progress(&format!("{subject}: {rate:.0} kpps"));
                figures.add(Measure::LiveFrames, subject, rate);
            }
        }
    }
    check(
        &ours,
        u64::from(effort.frames()) * (effort.rounds() as u64 + 1),
    )
}

/// Program, frame, and what it is called.
fn cases() -> [(&'static str, Vec<u8>, &'static str); 4] {
    let first = |frames: Vec<Vec<u8>>| frames.into_iter().next().unwrap_or_default();
    let right = first(frames::received(SIZES[0], Way::Vxlan, false));
    let forged = first(frames::from_stranger(SIZES[0]));
    [
        ("xdp_redirect", right.clone(), REDIRECT),
        ("xdp_call", right, UPLINK),
        ("xdp_call", forged.clone(), DROP),
        ("xdp_pass", forged, DROP_BY_TC),
    ]
}

/// Fails unless so many frames of each kind were delivered or dropped.
fn check(node: &TestNode, frames: u64) -> Result<()> {
    let delivered = node.counted(Some(Verdict::FromVtepXdp.slot()))?;
    ensure!(
        delivered == frames,
        "{delivered} of {frames} frames were delivered"
    );
    let dropped = node.counted(Some(DropReason::UnknownVtep.slot()))?;
    ensure!(
        dropped == 2 * frames,
        "{dropped} of {} frames were dropped",
        2 * frames
    );
    Ok(())
}

/// Drops what comes to the pod, and makes its device take frames from XDP at all.
fn end() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(&bench_object()?)?;
    let program = xdp(&mut ebpf, "xdp_drop")?;
    program.load()?;
    program.attach("p-pod0", XdpMode::Driver)?;
    Ok(ebpf)
}

/// The benchmark's programs, of which `xdp_call` ends with that of the agent.
fn load(node: &TestNode) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global("DEVICE", &node::POD, true);
    let mut ebpf = loader.load(&bench_object()?)?;
    for name in ["xdp_redirect", "xdp_call", "xdp_pass"] {
        xdp(&mut ebpf, name)?.load()?;
    }
    let ours = node.xdp()?;
    let mut program: ProgramArray<_> = ebpf.map_mut("PROGRAM").context("no map")?.try_into()?;
    program.set(0, ours.fd()?, 0)?;
    Ok(ebpf)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    Ok(program
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

/// Thousand frames per second.
fn rate(node: &Netns, ebpf: &mut Ebpf, name: &str, frame: &[u8], frames: u32) -> Result<f64> {
    let headers: [u8; HEADERS] = frame[..HEADERS].try_into()?;
    let before = ebpf.map_mut("HEADERS_BEFORE").context("no map")?;
    Array::<_, [u8; HEADERS]>::try_from(before)?.set(0, headers, 0)?;
    let program: &Xdp = ebpf
        .program(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?;
    let context = context(frame)?;
    node.inside(|| {
        pin_to_one_cpu()?;
        let start = Instant::now();
        program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
        Ok(f64::from(frames) / start.elapsed().as_secs_f64() / 1e3)
    })
}

/// `struct xdp_md` (include/uapi/linux/bpf.h): the whole frame is data, and came in by the uplink.
fn context(frame: &[u8]) -> Result<[u8; 24]> {
    let mut context = [0; 24];
    let end = u32::try_from(frame.len())?;
    context[4..8].copy_from_slice(&end.to_ne_bytes());
    context[12..16].copy_from_slice(&node::UPLINK.to_ne_bytes());
    Ok(context)
}
