//! What the binary `oxlan-cni` does.

use std::process::ExitCode;

/// Entry point of the plugin.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
