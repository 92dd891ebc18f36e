//! Running programs to their end; a failure's text holds the command line and what it said.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Splits a command line at blanks; there is no quoting.
#[must_use]
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a command to its end and returns what it printed to standard output.
///
/// # Errors
///
/// If it cannot be started or fails; the text holds the command line and its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    if !output.status.success() {
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?} failed ({}): {} {}",
            output.status,
            stdout.trim(),
            stderr.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whether it succeeds or not.
///
/// # Errors
///
/// If it cannot be started.
pub fn finish(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("cannot run {command:?}"))
}

/// Runs a command line of the host, split at blanks.
///
/// # Errors
///
/// As [`output`].
pub fn host(line: &str) -> Result<String> {
    let words = words(line);
    let (program, arguments) = words.split_first().context("an empty command line")?;
    output(Command::new(program).args(arguments))
}
