//! Packets as tcpdump shows them.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::run::words;
use crate::scope::Scope;
use crate::wait::{SOON, until_true};

/// A running tcpdump. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    lines: PathBuf,
}

impl Capture {
    /// Starts tcpdump and waits until it listens. `options` are split at blanks, the filter is one word.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(
        scope: &Scope,
        netns: &Netns,
        device: &str,
        options: &str,
        filter: &str,
    ) -> Result<Self> {
        let base = scope
            .dir()
            .join(format!("{}-{device}.tcpdump", netns.name()));
        let (lines, errors) = (base.with_extension("out"), base.with_extension("err"));
        let mut command = netns.command("tcpdump");
        command
            .args(["-l", "-n", "--immediate-mode", "-i", device])
            .args(words(options))
            .arg(filter);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&lines)?)
            .stderr(File::create(&errors)?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let capture = Self { child, lines };
        until_true(SOON, "listening tcpdump", || {
            Ok(std::fs::read_to_string(&errors)?.contains("listening on"))
        })?;
        Ok(capture)
    }

    /// What was captured so far.
    ///
    /// # Errors
    ///
    /// If its file cannot be read.
    pub fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.lines).context("cannot read the captured packets")
    }

    /// Waits until what was captured contains a text.
    ///
    /// # Errors
    ///
    /// If it does not within some seconds.
    pub fn wait_for(&self, text: &str) -> Result<String> {
        until_true(SOON, &format!("packet with `{text}`"), || {
            Ok(self.text()?.contains(text))
        })?;
        self.text()
    }

    /// Ends tcpdump and returns what was captured.
    ///
    /// # Errors
    ///
    /// If its file cannot be read.
    pub fn finish(mut self) -> Result<String> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        self.child.wait()?;
        self.text()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks VXLAN packets as `tcpdump -t` prints them (it takes port 8472 for OTV), outer line and inner line in turn:
/// IPv4 goes over IPv4, IPv6 over IPv6, and both are there.
///
/// # Errors
///
/// If it is otherwise.
pub fn each_family_over_its_own(text: &str) -> Result<()> {
    let family = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let (mut seen, mut outer) = (std::collections::BTreeSet::new(), String::new());
    for line in text.lines() {
        if line.contains("OTV") {
            outer = family(line);
        } else if !outer.is_empty() {
            let inner = family(line);
            anyhow::ensure!(inner == outer, "{inner} over {outer}: {line}");
            seen.insert(std::mem::take(&mut outer));
        }
    }
    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    anyhow::ensure!(seen == ["IP", "IP6"], "only {seen:?} was seen:\n{text}");
    Ok(())
}
