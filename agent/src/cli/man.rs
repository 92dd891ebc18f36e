//! `oxlan man`, by which the distribution's manual pages are made.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};

/// Options of `oxlan man`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to write one file per command
    directory: PathBuf,
}

/// Writes the pages.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let mut command = super::Cli::command().disable_help_subcommand(true);
    command.build();
    write(&command, "oxlan", &options.directory)?;
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("oxlan-{}", subcommand.get_name());
        write(subcommand, &name, &options.directory)?;
    }
    Ok(())
}

fn write(command: &Command, name: &str, directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(format!("{name}.1"));
    let page = clap_mangen::Man::new(command.clone().display_name(name.to_owned()));
    // No date, so that two builds are the same.
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
