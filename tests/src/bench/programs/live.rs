//! XDP with live frames: the kernel feeds frames to a program as a driver would, and carries out
//! what it says (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). Packets per second on one core, beside
//! the least that can be done with a frame that leaves by another device.

use std::time::Instant;

use anyhow::{Context, Result};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::super::figures::{Figures, Measure};
use super::super::{Effort, Progress};
use crate::binaries::bench_object;
use crate::netns::Netns;
use crate::scope::Scope;

/// The bare redirection among the figures.
pub(in crate::bench) const REDIRECT: &str = "bare XDP_REDIRECT";

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
    node.run_all(&[
        &format!(
            "ip link add pod0 type veth peer name eth0 netns {}",
            pod.name()
        ),
        "ip link set pod0 up",
    ])?;
    pod.run("ip link set eth0 up")?;
    let device = node.ifindex("pod0")?;
    let _end = pod.inside(end)?;
    let redirect = load("xdp_redirect", device)?;
    for _ in 0..effort.rounds() {
        let rate = rate(&node, &redirect, effort.frames())?;
        progress(&format!("{REDIRECT}: {rate:.0} kpps"));
        figures.add(Measure::LiveFrames, REDIRECT, rate);
    }
    Ok(())
}

/// Drops what comes to the pod, and makes its device take frames from XDP at all.
fn end() -> Result<Ebpf> {
    let mut ebpf = load("xdp_drop", 0)?;
    let program: &mut Xdp = ebpf
        .program_mut("xdp_drop")
        .context("no program xdp_drop")?
        .try_into()?;
    program.attach("eth0", XdpMode::Driver)?;
    Ok(ebpf)
}

fn load(name: &str, device: u32) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global("DEVICE", &device, true);
    let mut ebpf = loader.load(&bench_object()?)?;
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?;
    program.load()?;
    Ok(ebpf)
}

/// Thousand frames per second.
fn rate(node: &Netns, ebpf: &Ebpf, frames: u32) -> Result<f64> {
    let program: &Xdp = ebpf
        .program("xdp_redirect")
        .context("no program xdp_redirect")?
        .try_into()?;
    node.inside(|| {
        super::pin_to_one_cpu()?;
        let start = Instant::now();
        program.test_run(TestRunOptions {
            data_in: Some(&[0; 64]),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
        Ok(f64::from(frames) / start.elapsed().as_secs_f64() / 1e3)
    })
}
