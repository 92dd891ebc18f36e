//! Each BPF program alone, on a node with few and with many pods and nodes.
//!
//! A program changes the packet that it gets, so it runs once per call of `BPF_PROG_TEST_RUN`, and the
//! kernel's own statistics of programs (`BPF_ENABLE_STATS`) tell the time. What an empty program
//! takes the same way is the cost of measuring, and is subtracted.

mod batch;
mod branches;
mod calls;
mod fib;
mod frames;
mod live;
mod node;

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::figures::{Figures, Measure};
use super::{Effort, Progress};
use crate::scope::Scope;
use batch::{Batch, Under};
use branches::Branch;
use calls::Bare;
use node::{TestNode, Way};
use oxlan::datapath::Program;

pub(super) use branches::{calls_of, forwards};
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
    let measured = scope.netns("programs")?.inside(|| {
        pin_to_one_cpu()?;
        node::add_devices()?;
        let _statistics = statistics()?;
        let mut measured = Vec::new();
        for size in SIZES {
            measured.extend(at_size(effort, size, &scope)?);
        }
        Ok(measured)
    })?;
    for (branch, size, nanoseconds) in measured {
        let subject = subject(branch, size);
        progress(&format!("{subject}: {nanoseconds:.0} ns"));
        figures.add(Measure::ProgramTime, &subject, nanoseconds);
    }
    for (call, nanoseconds) in calls::measure(effort, &scope)? {
        progress(&format!("{}: {nanoseconds:.0} ns", call.title()));
        figures.add(Measure::CallTime, call.title(), nanoseconds);
    }
    live::measure(effort, &scope, figures, progress)
}

/// The kernel keeps the statistics for as long as the value lives.
fn statistics() -> Result<std::os::fd::OwnedFd> {
    enable_stats(Stats::RunTime).context("cannot enable statistics")
}

fn at_size(effort: Effort, size: Size, scope: &Scope) -> Result<Vec<(&'static str, Size, f64)>> {
    let pins = scope.bpf_dir().join(format!("programs-{}", size.pods));
    let node = TestNode::start(&pins, size)?;
    node.translate(&frames::translated_flows(size))?;
    let bare = Bare::load()?.before(&node.program(Program::FromOverlay)?)?;
    let mut measured = Vec::new();
    for way in Way::ALL {
        node.reach_others(way)?;
        let branches = branches::all(size, way);
        // The first round only warms up.
        for round in 0..=effort.rounds() {
            let nothing = bare.nothing(effort.runs())?;
            for branch in &branches {
                let time = run(&node, &bare, branch, effort.runs())
                    .with_context(|| format!("{} at {size:?}", branch.name))?;
                if round > 0 {
                    measured.push((branch.name, size, time - nothing.before(branch.program)));
                }
            }
        }
    }
    Ok(measured)
}

/// Nanoseconds per run; fails when the program did not do what the branch is about.
fn run(node: &TestNode, bare: &Bare, branch: &Branch, runs: usize) -> Result<f64> {
    let before = node.counted(branch.slot)?;
    let batch = Batch {
        ifindex: branch.ifindex(),
        frames: &branch.frames,
        runs,
    };
    let program = branch.program;
    let time = if program.is_xdp() {
        batch.time(Under::Xdp(&node.xdp()?))?
    } else if program == Program::FromOverlay {
        batch.time(bare.overlay()?)?
    } else if branch.is_limited {
        let mut answers = node.answers()?;
        batch.time_of_few(Under::Tc(&node.program(program)?), || answers.allow())?
    } else {
        batch.time(Under::Tc(&node.program(program)?))?
    };
    let counted = node.counted(branch.slot)? - before;
    let wanted = if branch.slot.is_some() { runs } else { 0 };
    ensure!(
        counted == wanted as u64,
        "{counted} packets were counted instead of {wanted}"
    );
    Ok(time)
}

/// Counters of other CPUs would be cold after a move.
fn pin_to_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}
