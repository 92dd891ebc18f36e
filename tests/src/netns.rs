//! Network namespaces: commands and closures inside them.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::run::{host, output, words};

/// A named network namespace; its [`crate::scope::Scope`] removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one whose loopback device is up.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn create(name: &str) -> Result<Self> {
        host(&format!("ip netns add {name}"))?;
        host(&format!("ip -n {name} link set lo up"))?;
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// Gives the namespace of a process a name.
    ///
    /// # Errors
    ///
    /// If there is no such process, or the name is taken.
    pub fn of_process(name: &str, pid: u32) -> Result<Self> {
        host(&format!("ip netns attach {name} {pid}"))?;
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// One that somebody else has made.
    #[must_use]
    pub fn existing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Its name below `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as container runtimes give it to CNI plugins.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Removes it with all its devices.
    ///
    /// # Errors
    ///
    /// If there is no such namespace.
    pub fn delete(&self) -> Result<()> {
        host(&format!("ip netns del {}", self.name)).map(drop)
    }

    /// A command inside. Not `ip netns exec`, which hides the BPF file system behind a new `/sys`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command line inside, split at blanks, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails; the text holds what it said.
    pub fn run(&self, line: &str) -> Result<String> {
        let words = words(line);
        let (program, arguments) = words.split_first().context("an empty command line")?;
        output(self.command(program).args(arguments))
    }

    /// Runs several command lines inside.
    ///
    /// # Errors
    ///
    /// If one fails; those after it are not run.
    pub fn run_all(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| self.run(line).map(drop))
    }

    /// Runs a closure on a thread that is inside; sockets that it opens stay inside.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, or the closure fails.
    ///
    /// # Panics
    ///
    /// If the closure panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.path())
            .with_context(|| format!("cannot open the namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The interface index of a device inside.
    ///
    /// # Errors
    ///
    /// If there is no such device.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        // Not from /sys, which shows the namespace in which it was mounted.
        let line = self.run(&format!("ip -o link show dev {device}"))?;
        let index = line.split(':').next().unwrap_or_default();
        index
            .trim()
            .parse()
            .with_context(|| format!("no interface index in `{line}`"))
    }
}
