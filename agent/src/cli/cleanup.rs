//! `oxlan cleanup`.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::bail;
use clap::Args;

use super::Directories;
use crate::node;

/// Options of `oxlan cleanup`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    directories: Directories,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Asks, removes everything, and says what was removed and what could not be.
pub(super) fn run(options: Options) -> anyhow::Result<()> {
    if !options.yes && !confirmed(&options)? {
        bail!("nothing was removed");
    }
    crate::host::sysctl::find_them_in(&options.directories.proc_sys);
    let removed = node::cleanup(&node::Directories {
        run: options.directories.run.run_dir,
        state: options.directories.state_dir,
        bpf: options.directories.bpf_dir,
    })?;
    let mut text = String::new();
    for what in &removed.done {
        text += &format!("removed {what}\n");
    }
    for what in &removed.left {
        text += &format!("left {what}\n");
    }
    if removed.done.is_empty() && removed.failed.is_empty() && removed.left.is_empty() {
        text += "nothing of Oxlan is on this node\n";
    }
    super::output::print(&text)?;
    if removed.failed.is_empty() {
        return Ok(());
    }
    bail!(
        "could not remove everything:\n  {}",
        removed.failed.join("\n  ")
    )
}

fn confirmed(options: &Options) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("this cuts off every pod of the node: give --yes if you mean it");
    }
    let mut out = io::stderr().lock();
    write!(
        out,
        "This cuts off every pod of this node and removes programs, maps, interfaces, routes, the\n\
         nftables table and the state in {}. Go on? [y/N] ",
        options.directories.state_dir.display()
    )?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
