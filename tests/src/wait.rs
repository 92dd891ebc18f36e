//! Waiting for a condition, with a deadline.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take that should come at once; generous, as test machines are busy.
pub const SOON: Duration = Duration::from_secs(10);

/// Environment variable by which machines are slower than the limits of the tests are made for: an
/// emulated processor is.
pub const SLOWNESS: &str = "OXLAN_TEST_SLOWNESS";

/// A limit as it is on this machine.
#[must_use]
pub fn on_this_machine(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let value = std::env::var(SLOWNESS).ok();
        value.and_then(|value| value.parse().ok()).unwrap_or(1)
    });
    limit * *factor
}

/// Calls `check` until it returns a value, or fails with its last complaint when `limit` is over.
///
/// # Errors
///
/// If there was no value in time.
pub fn until<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = on_this_machine(limit);
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                bail!("no {what} after {limit:?}: {error:#}");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// [`until`] for a condition without a value.
///
/// # Errors
///
/// If it did not become true in time.
pub fn until_true(
    limit: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(limit, what, || {
        if check()? { Ok(()) } else { bail!("not yet") }
    })
}
