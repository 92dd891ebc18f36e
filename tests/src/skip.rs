//! Tests that cannot run on this machine.

use std::io::Write;

/// Says that the running test is skipped and why; `cargo xtask test` counts and repeats it.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // Not `eprintln!`, which the test harness keeps to itself as long as a test passes. Nobody
    // to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}
