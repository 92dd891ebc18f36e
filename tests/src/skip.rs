//! Tests that cannot run on this machine.

use std::io::Write;

/// Environment variable by which no test may be skipped: the machine has what they need.
pub const NO_SKIP: &str = "OXLAN_TEST_NO_SKIP";

/// Says that the running test is skipped and why; `cargo xtask test` counts and repeats it.
///
/// # Panics
///
/// If [`NO_SKIP`] is set.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os(NO_SKIP).is_none(),
        "this must run here, and cannot: {reason}"
    );
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // Not `eprintln!`, which the test harness keeps to itself as long as a test passes. Nobody
    // to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}
