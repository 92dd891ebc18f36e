//! `oxlan completions bash|zsh|fish`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Options of `oxlan completions`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The shell, as bash, zsh or fish
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(
        options.shell,
        &mut super::Cli::command(),
        "oxlan",
        &mut script,
    );
    super::output::print(&String::from_utf8_lossy(&script))
}
