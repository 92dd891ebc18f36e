//! The CNI plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    oxlan::cni::plugin::main()
}
