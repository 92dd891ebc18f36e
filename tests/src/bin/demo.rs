//! The demonstration behind `cargo xtask demo`; run as root.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => oxlan_tests::demo::run(false),
        ["--keep"] => oxlan_tests::demo::run(true),
        ["--down"] => oxlan_tests::demo::down(),
        // What the demonstration starts in some of its namespaces.
        ["serve", name] => oxlan_tests::demo::serve(name),
        _ => {
            eprintln!("usage: demo [--keep|--down]");
            ExitCode::from(2)
        }
    }
}
