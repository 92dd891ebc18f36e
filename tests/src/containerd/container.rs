//! A container that `ctr run` started and waits for.

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Containerd, run_arguments};
use crate::wait::{SOON, until};

/// A container. Its `ctr` runs as long as it does and calls the plugin's DEL in the end.
#[derive(Debug)]
pub struct Container<'a> {
    /// Its name.
    pub name: String,
    /// Process id of its program.
    pub pid: i32,
    /// Its addresses, as it sees them, IPv4 first.
    pub addresses: Vec<IpAddr>,
    runtime: &'a Containerd,
    ctr: Child,
    log: PathBuf,
    executed: AtomicU32,
}

impl<'a> Container<'a> {
    pub(super) fn start(runtime: &'a Containerd, name: &str, program: &str) -> Result<Self> {
        let log = runtime.base.join(format!("{name}.log"));
        let to = File::create(&log)?;
        let mut command = runtime.ctr_command()?;
        command
            .args(run_arguments(name, program))
            .stdout(to.try_clone()?)
            .stderr(to);
        let ctr = command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut container = Self {
            name: name.to_owned(),
            pid: 0,
            addresses: Vec::new(),
            runtime,
            ctr,
            log,
            executed: AtomicU32::new(0),
        };
        container.pid = container.wait_running()?;
        container.addresses = container.read_addresses()?;
        Ok(container)
    }

    fn wait_running(&mut self) -> Result<i32> {
        let started = until(SOON, "container", || match self.ctr.try_wait()? {
            Some(status) => Ok(Err(status)),
            None => self.runtime.task(&self.name).map(Ok),
        })?;
        match started {
            Ok(pid) => Ok(pid),
            Err(status) => bail!("ctr ended with {status}: {}", self.log().trim()),
        }
    }

    fn read_addresses(&self) -> Result<Vec<IpAddr>> {
        let text = self.exec("ip -o address show dev eth0 scope global")?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut addresses = Vec::new();
        for pair in words
            .windows(2)
            .filter(|pair| matches!(pair[0], "inet" | "inet6"))
        {
            let address = pair[1].split('/').next().unwrap_or_default();
            addresses.push(
                address
                    .parse()
                    .with_context(|| format!("not an address: {address}"))?,
            );
        }
        addresses.sort();
        Ok(addresses)
    }

    /// Runs another program in the container, split at blanks, and returns what it printed.
    ///
    /// It prints into a file, because `ctr` may stop to copy the output before the end of it.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn exec(&self, line: &str) -> Result<String> {
        let id = format!("exec-{}", self.executed.fetch_add(1, Ordering::Relaxed));
        let script = format!("exec \"$@\" >/{id} 2>&1");
        let mut arguments = vec!["task", "exec", "--exec-id", &id, &self.name];
        arguments.extend(["sh", "-c", &script, "sh"]);
        arguments.extend(line.split_whitespace());
        let ended = self.runtime.ctr(&arguments);
        let file = format!("/proc/{}/root/{id}", self.pid);
        let printed = std::fs::read_to_string(&file);
        ended.with_context(|| printed.as_deref().unwrap_or_default().to_owned())?;
        printed.with_context(|| format!("cannot read {file}"))
    }

    /// Sends echo requests and expects every answer.
    ///
    /// # Errors
    ///
    /// If one is missing.
    pub fn ping(&self, to: IpAddr) -> Result<()> {
        let text = self.exec(&format!("ping -c 3 -i 0.1 -W 2 {to}"))?;
        ensure!(
            text.contains(" 3 packets received"),
            "lost pings to {to}: {text}"
        );
        Ok(())
    }

    /// What the plugins know it by.
    #[must_use]
    pub fn cni_id(&self) -> String {
        self.runtime.cni_id(&self.name)
    }

    /// What its program and `ctr` printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills its program, as the kernel does when memory runs out.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).context("the container does not run")
    }

    /// Waits until `ctr` has cleaned up after the container's end, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn wait(mut self) -> Result<(ExitStatus, String)> {
        let status = until(SOON, &format!("end of {}", self.name), || {
            self.ctr.try_wait()?.context("ctr runs")
        })?;
        Ok((status, self.log()))
    }

    /// Has the runtime end and remove it, and expects that it has nothing to complain about.
    ///
    /// # Errors
    ///
    /// If the runtime does.
    pub fn remove(self) -> Result<()> {
        self.runtime
            .ctr(&["task", "kill", "--signal", "SIGKILL", &self.name])?;
        let (_, log) = self.wait()?;
        ensure!(!log.contains("level=error"), "ctr complained: {log}");
        Ok(())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.ctr.kill();
        let _ = self.ctr.wait();
    }
}
