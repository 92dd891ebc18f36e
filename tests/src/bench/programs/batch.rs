//! Runs a program over packets, one call of `BPF_PROG_TEST_RUN` each, and reads the kernel's statistics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use oxlan_common::limit::ANSWERS_AT_ONCE;

use super::super::figures::Spread;

/// Runs of which the time is read at once. An interrupt falls into some of them, whose time does not count then.
const READING: usize = 500;

/// The program that is measured.
#[derive(Clone, Copy)]
pub(super) enum Under<'a> {
    Tc(&'a SchedClassifier),
    /// Its frames come in by the loopback.
    Xdp(&'a Xdp),
}

impl Under<'_> {
    /// Runs it once and returns what it returned.
    pub(super) fn run(self, frame: &[u8], ifindex: u32) -> Result<u32> {
        let options = || TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let context = context(ifindex);
        let result = match self {
            Self::Tc(program) => program.test_run(TestRunOptions {
                ctx_in: Some(&context),
                ..options()
            })?,
            Self::Xdp(program) => program.test_run(options())?,
        };
        Ok(result.return_value)
    }

    /// Time in the program and runs of it so far.
    fn spent(self) -> Result<(Duration, u64)> {
        let info: ProgramInfo = match self {
            Self::Tc(program) => program.info()?,
            Self::Xdp(program) => program.info()?,
        };
        Ok((info.run_time(), info.run_count()))
    }
}

/// What a program is run over, and how often.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    /// Device that the packets come in by.
    pub(super) ifindex: u32,
    /// They take turns.
    pub(super) frames: &'a [Vec<u8>],
    pub(super) runs: usize,
}

impl Batch<'_> {
    /// Nanoseconds per run, by the kernel's statistics: the median of readings.
    pub(super) fn time(self, program: Under<'_>) -> Result<f64> {
        self.read(program, READING, || Ok(()))
    }

    /// The same for what a program does only so often: `allow` is called before it would refuse.
    pub(super) fn time_of_few(
        self,
        program: Under<'_>,
        allow: impl FnMut() -> Result<()>,
    ) -> Result<f64> {
        self.read(program, usize::try_from(ANSWERS_AT_ONCE)?, allow)
    }

    fn read(
        self,
        program: Under<'_>,
        reading: usize,
        mut before_each: impl FnMut() -> Result<()>,
    ) -> Result<f64> {
        let mut frames = self.frames.iter().cycle();
        let mut readings = Vec::new();
        let mut left = self.runs;
        while left > 0 {
            let count = left.min(reading);
            before_each()?;
            let before = program.spent()?;
            for frame in frames.by_ref().take(count) {
                program.run(frame, self.ifindex)?;
            }
            let after = program.spent()?;
            let counted = after.1 - before.1;
            ensure!(counted > 0, "the kernel keeps no statistics of programs");
            readings.push((after.0 - before.0).as_nanos() as f64 / counted as f64);
            left -= count;
        }
        Spread::of(&readings)
            .map(|spread| spread.median)
            .context("no runs")
    }
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) that names the device.
fn context(ifindex: u32) -> [u8; 192] {
    const IFINDEX: usize = 40;
    let mut context = [0; 192];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
