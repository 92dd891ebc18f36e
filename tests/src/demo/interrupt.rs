//! Ctrl-C, SIGTERM and the closing of the terminal: the demonstration ends at its next step, and
//! everything is removed on the way out as after any other failure.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on these signals only set a flag. Programs that we start have their default effects.
pub(super) fn watch() -> Result<()> {
    let flag = SEEN.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(())
}

/// Whether one of them came.
pub(super) fn seen() -> bool {
    SEEN.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails if one of them came.
pub(super) fn check() -> Result<()> {
    if seen() {
        bail!("interrupted");
    }
    Ok(())
}
