//! Each BPF program alone, on a node with few and with many pods and nodes.
//!
//! A program changes the packet that it gets, so it runs once per call of `BPF_PROG_TEST_RUN`, and the
//! kernel's own statistics of programs (`BPF_ENABLE_STATS`) tell the time. What an empty program
//! takes the same way is the cost of measuring, and is subtracted.

mod branches;
mod calls;
mod live;
mod node;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::sys::{Stats, enable_stats};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::figures::{Figures, Measure, Spread};
use super::{Effort, Progress};
use crate::scope::Scope;
use branches::Branch;
use calls::Bare;
use node::TestNode;

pub(super) use branches::calls_of;
pub(super) use calls::together;

/// Pods of the node and nodes of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) pods: u32,
    pub(super) nodes: u32,
}

/// From a small cluster to one larger than any.
pub(super) const SIZES: [Size; 3] = [
    Size { pods: 10, nodes: 2 },
    Size {
        pods: 1_000,
        nodes: 500,
    },
    Size {
        pods: 100_000,
        nodes: 5_000,
    },
];

/// Name of a branch at a size among the figures.
pub(super) fn subject(branch: &str, size: Size) -> String {
    format!("{branch}, {} pods, {} nodes", size.pods, size.nodes)
}

/// Measures every branch at every size, and XDP.
pub(super) fn measure(
    effort: Effort,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let scope = Scope::for_test()?;
    // Programs are run on a thread of their own, whose namespace has the devices.
    let (measured, calls) = scope.netns("programs")?.inside(|| {
        pin_to_one_cpu()?;
        node::add_devices()?;
        let _statistics = enable_stats(Stats::RunTime).context("cannot enable statistics")?;
        let mut measured = Vec::new();
        for size in SIZES {
            measured.extend(at_size(effort, size, &scope)?);
        }
        Ok((measured, calls::measure(effort)?))
    })?;
    for (branch, size, nanoseconds) in measured {
        let subject = subject(branch, size);
        progress(&format!("{subject}: {nanoseconds:.0} ns"));
        figures.add(Measure::ProgramTime, &subject, nanoseconds);
    }
    for (call, nanoseconds) in calls {
        progress(&format!("{}: {nanoseconds:.0} ns", call.title()));
        figures.add(Measure::CallTime, call.title(), nanoseconds);
    }
    live::measure(effort, &scope, figures, progress)
}

fn at_size(effort: Effort, size: Size, scope: &Scope) -> Result<Vec<(&'static str, Size, f64)>> {
    let node = TestNode::start(
        &scope.bpf_dir().join(format!("programs-{}", size.pods)),
        size,
    )?;
    let branches = branches::all(size);
    let bare = Bare::load()?;
    let mut measured = Vec::new();
    // The first round only warms up.
    for round in 0..=effort.rounds() {
        let nothing = bare.nothing(effort.runs())?;
        for branch in &branches {
            let time = run(&node, branch, effort.runs())
                .with_context(|| format!("{} at {size:?}", branch.name))?;
            if round > 0 {
                measured.push((branch.name, size, time - nothing));
            }
        }
    }
    Ok(measured)
}

/// Nanoseconds per run; fails when the program did not do what the branch is about.
fn run(node: &TestNode, branch: &Branch, runs: usize) -> Result<f64> {
    let program = node.program(branch.program)?;
    let before = node.counted(branch.outcome)?;
    let time = batch(&program, branch.ifindex, &branch.frames, runs)?;
    let counted = node.counted(branch.outcome)? - before;
    ensure!(
        counted == runs as u64,
        "{counted} of {runs} packets took this way"
    );
    Ok(time)
}

/// Runs of which the time is read at once. An interrupt falls into some of them, whose time does not count then.
const READING: usize = 500;

/// Runs a program over frames in turn; nanoseconds per run, by the kernel's statistics: the median of readings.
fn batch(program: &SchedClassifier, ifindex: u32, frames: &[Vec<u8>], runs: usize) -> Result<f64> {
    let context = context(ifindex);
    let mut frames = frames.iter().cycle();
    let mut readings = Vec::new();
    let mut left = runs;
    while left > 0 {
        let count = left.min(READING);
        let before = spent(program)?;
        for frame in frames.by_ref().take(count) {
            program.test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                ..TestRunOptions::new()
            })?;
        }
        let after = spent(program)?;
        let counted = after.1 - before.1;
        ensure!(counted > 0, "the kernel keeps no statistics of programs");
        readings.push((after.0 - before.0).as_nanos() as f64 / counted as f64);
        left -= count;
    }
    Spread::of(&readings)
        .map(|spread| spread.median)
        .context("no runs")
}

/// Time in the program and runs of it so far.
fn spent(program: &SchedClassifier) -> Result<(Duration, u64)> {
    let info = program.info()?;
    Ok((info.run_time(), info.run_count()))
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) that names the device.
fn context(ifindex: u32) -> [u8; 192] {
    const IFINDEX: usize = 40;
    let mut context = [0; 192];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// Counters of other CPUs would be cold after a move.
fn pin_to_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}
