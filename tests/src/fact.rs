//! What a test has found out about the kernel it runs on, for `cargo xtask vm kernels`.

use std::io::Write;

/// What stands before a fact.
const MARK: &str = "KERNEL FACT ";

/// Tells a fact: one line, words with blanks between them.
pub fn tell(fact: &str) {
    // Not `eprintln!`, which the test harness keeps to itself as long as a test passes. Nobody
    // to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{MARK}{fact}");
}
