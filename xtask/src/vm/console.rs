//! Runs what boots a machine, and reads what the machine prints.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::exec::line;

/// Runs a command to its end; each line of both its streams is printed, after `prefix`, and read.
pub(super) fn run(
    mut command: Command,
    prefix: &str,
    mut read: impl FnMut(&str),
) -> Result<std::process::ExitStatus> {
    let name = line(&command);
    println!("{prefix}{name}");
    // One pipe for both streams keeps their lines in order.
    let (reader, writer) = std::io::pipe()?;
    command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .stdin(Stdio::null());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run `{name}`"))?;
    // It holds the writing ends, without which the pipe does not end.
    drop(command);
    for bytes in BufReader::new(reader).split(b'\n') {
        // What a kernel prints while it dies need not be text.
        let text = String::from_utf8_lossy(&bytes?).trim_end().to_owned();
        println!("{prefix}{text}");
        read(&text);
    }
    Ok(child.wait()?)
}
