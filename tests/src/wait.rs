//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take that should come at once; generous, as test machines are busy.
pub const SOON: Duration = Duration::from_secs(10);

/// Calls `check` until it returns a value, or fails with its last complaint when `limit` is over.
///
/// # Errors
///
/// If there was no value in time.
pub fn until<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T>) -> Result<T> {
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
