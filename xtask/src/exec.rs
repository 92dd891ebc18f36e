//! Running other programs: a failure names the command, and what needs root goes through sudo.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where Debian keeps administrators' programs, which an ordinary user's `PATH` lacks.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Runs a command to its end; a failure's error holds the command line.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed; a failure's error holds both.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run `{}`", line(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed: {}\n{}",
            line(command),
            output.status,
            errors.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command line as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains([' ', '"', '$', ';', '&', '|', '(', ')', '*']) {
        format!("'{word}'")
    } else {
        word.into_owned()
    }
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether [`as_root`] has a way.
pub(crate) fn can_be_root() -> bool {
    is_root() || find_program("sudo").is_some()
}

/// A command that runs as root: directly, or with sudo after saying so.
pub(crate) fn as_root(program: &str, arguments: &[&str]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.args(arguments);
        // `su` without `-` keeps an ordinary user's path; sudo has one of its own.
        command.env("PATH", std::env::join_paths(search_path())?);
        return Ok(command);
    }
    if !can_be_root() {
        bail!(
            "this needs root and there is no sudo: run as root: {program} {}",
            arguments.join(" ")
        );
    }
    println!(
        "==> needs root, so sudo may ask for your password: {program} {}",
        arguments.join(" ")
    );
    let mut command = Command::new("sudo");
    command.arg(program).args(arguments);
    Ok(command)
}

/// Where a program is, if it is installed.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let mut candidates = search_path()
        .into_iter()
        .map(|directory| directory.join(name));
    candidates.find(|file| is_executable(file))
}

/// `PATH`, and administrators' programs after it.
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .collect()
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = exec(Command::new("false").arg("two words")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`false 'two words'` failed: exit status: 1"
        );
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(
            error.to_string().ends_with("exit status: 3\nwhy"),
            "{error}"
        );
    }

    #[test]
    fn programs_are_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }
}
