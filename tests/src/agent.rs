//! A real agent process in a node's namespace.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries::binary;
use crate::netns::Netns;
use crate::wait::until;

/// The three directories of one agent, and its log.
#[derive(Clone, Debug)]
pub struct Directories {
    /// `--run-dir`: the socket.
    pub run: PathBuf,
    /// `--state-dir`: one file per attachment.
    pub state: PathBuf,
    /// `--bpf-dir`: pins.
    pub bpf: PathBuf,
    /// What the agent prints.
    pub log: PathBuf,
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Starts an agent; it is not ready yet.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub fn spawn(
        netns: &Netns,
        node: &str,
        cluster_file: &Path,
        dirs: &Directories,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&dirs.log)
            .with_context(|| format!("cannot open {}", dirs.log.display()))?;
        let mut command = netns.command(&binary("oxlan")?.to_string_lossy());
        command
            .arg("agent")
            .args(["--node", node])
            .arg("--cluster-file")
            .arg(cluster_file);
        command
            .arg("--run-dir")
            .arg(&dirs.run)
            .arg("--state-dir")
            .arg(&dirs.state);
        command.arg("--bpf-dir").arg(&dirs.bpf);
        command
            .env("NO_COLOR", "1")
            // What is kept running must outlive the terminal from which it was started.
            .process_group(0)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { child })
    }

    /// Process id of the agent itself (`nsenter` became it).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it ended.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it at once and without its knowledge (SIGKILL).
    ///
    /// # Errors
    ///
    /// If it had ended before.
    pub fn kill(mut self) -> Result<()> {
        ensure!(
            self.ended()?.is_none(),
            "the agent had ended before it was killed"
        );
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it did, successfully.
    ///
    /// # Errors
    ///
    /// If it does not end within some seconds, or not successfully.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), Signal::SIGTERM)?;
        let status = until(
            Duration::from_secs(5),
            "end of the agent after SIGTERM",
            || self.ended()?.context("it runs"),
        )?;
        ensure!(
            status.success(),
            "the agent ended with {status} after SIGTERM"
        );
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
