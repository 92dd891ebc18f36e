//! The API server's end and its return.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lab, MINUTE};
use crate::wait::until;

/// The control group in which the script starts it, and by which it ends it.
const GROUP: &str = "/sys/fs/cgroup/pids/kubelab/kcp/cgroup.procs";

/// An API server that was killed. Dropping this starts it again.
pub struct Stopped<'a> {
    lab: &'a Lab,
    arguments: Vec<String>,
}

impl Lab {
    /// Kills the API server.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stop_server(&self) -> Result<Stopped<'_>> {
        let pid = std::fs::read_to_string(Self::run_dir().join("apiserver.pid"))?;
        let pid = pid.trim();
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let arguments = arguments
            .split_terminator('\0')
            .map(str::to_owned)
            .collect();
        kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL).context("cannot kill the API server")?;
        until(MINUTE, "end of the API server", || {
            anyhow::ensure!(self.kubectl("get --raw=/readyz").is_err(), "it answers");
            Ok(())
        })?;
        Ok(Stopped {
            lab: self,
            arguments,
        })
    }
}

impl Stopped<'_> {
    /// Starts it again, and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_again(mut self) -> Result<()> {
        self.start()?;
        let lab = self.lab;
        until(MINUTE, "answer of the API server", || {
            lab.kubectl("get --raw=/readyz")
        })?;
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let arguments = std::mem::take(&mut self.arguments);
        if arguments.is_empty() {
            return Ok(());
        }
        let log = std::fs::File::options()
            .append(true)
            .open(Lab::run_dir().join("log/apiserver.log"))?;
        let mut command = Command::new("setsid");
        command
            .args(["nsenter", "--net=/run/netns/kcp"])
            .args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start the API server")?;
        let pid = child.id().to_string();
        // The script ends all processes of this group.
        std::fs::write(Path::new(GROUP), &pid)?;
        std::fs::write(Lab::run_dir().join("apiserver.pid"), format!("{pid}\n"))?;
        Ok(())
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.start() {
            eprintln!("clean-up: {error:#}");
        }
    }
}
