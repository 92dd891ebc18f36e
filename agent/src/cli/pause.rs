//! `oxlan pause`. The image has nothing else that could wait.

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

/// Waits for SIGTERM or SIGINT.
pub(super) fn run() -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked, because the first process of a container has no default effects.
    signals.thread_block().context("cannot block signals")?;
    signals.wait().context("cannot wait for signals")?;
    Ok(())
}
