//! The machines' link: a bridge with a tap device for each, in a network namespace that nothing but
//! their processes holds, so that it vanishes with them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The file with the ids of processes that were left running.
const LEFT: &str = "running";

/// The link and the machines on it.
pub(super) struct Wire {
    dir: PathBuf,
    keep: bool,
    /// Holds the namespace until the first machine runs, and between machines.
    holder: Child,
    machines: Vec<(u8, Child)>,
}

impl Wire {
    /// A link for this many machines.
    pub(super) fn new(dir: &Path, keep: bool, machines: usize) -> Result<Self> {
        let mut script = String::from(
            "set -e\nip link set lo up\nip link add wire type bridge\nip link set wire up\n",
        );
        for number in 1..=machines {
            // Each queue of the device needs one of the tap: XDP takes queues of its own to send by.
            script.push_str(&format!(
                "ip tuntap add dev {0} mode tap multi_queue\nip link set {0} master wire up\n",
                tap(number)
            ));
        }
        script.push_str("echo made\nexec sleep infinity\n");
        let mut holder = Command::new("unshare");
        if !keep {
            holder = Command::new("setpriv");
            holder.args(["--pdeathsig", "KILL", "unshare"]);
        }
        holder.args(["--net", "sh", "-c", &script]);
        let mut holder = holder
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let mut line = String::new();
        let output = holder.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "made" {
            let _ = holder.kill();
            bail!("the machines' link cannot be made");
        }
        Ok(Self {
            dir: dir.to_owned(),
            keep,
            holder,
            machines: Vec::new(),
        })
    }

    /// Whether machines are to outlive this process.
    pub(super) const fn keeps(&self) -> bool {
        self.keep
    }

    /// Starts what boots a machine; its messages go to a file.
    pub(super) fn start(&mut self, number: u8, boot: &Command, log: &Path) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        command.arg(boot.get_program()).args(boot.get_args());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let machine = command.spawn().context("cannot run nsenter")?;
        self.machines.push((number, machine));
        Ok(())
    }

    /// Whether a machine's process is there.
    pub(super) fn runs(&mut self, number: u8) -> bool {
        let mut machines = self.machines.iter_mut();
        machines.any(|(of, child)| *of == number && matches!(child.try_wait(), Ok(None)))
    }

    /// Takes a machine's power away.
    pub(super) fn cut_power(&mut self, number: u8) -> Result<()> {
        let at = self.machines.iter().position(|(of, _)| *of == number);
        let (_, mut machine) = self
            .machines
            .remove(at.context("there is no such machine")?);
        machine.kill()?;
        machine.wait()?;
        Ok(())
    }

    /// Leaves everything running, and notes what that is.
    pub(super) fn keep(mut self) -> Result<()> {
        let machines = std::mem::take(&mut self.machines);
        let ids = machines.iter().map(|(_, child)| child.id());
        let ids: Vec<String> = ids
            .chain([self.holder.id()])
            .map(|id| id.to_string())
            .collect();
        std::fs::write(self.dir.join(LEFT), ids.join("\n"))?;
        self.keep = true;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let machines = self.machines.iter_mut().map(|(_, child)| child);
        for child in machines.chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Name of a machine's tap device.
pub(super) fn tap(number: impl std::fmt::Display) -> String {
    format!("tap{number}")
}

/// Ends what was left running: the processes whose ids were noted, if they are still what they were.
pub(super) fn down(dir: &Path) -> Result<()> {
    let note = dir.join(LEFT);
    let Ok(ids) = std::fs::read_to_string(&note) else {
        return Ok(());
    };
    for id in ids.lines() {
        let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if line.contains("qemu-system") || line.starts_with("sleep\0infinity") {
            let ended = Command::new("kill").args(["-KILL", id]).status()?;
            ensure!(ended.success(), "process {id} cannot be ended");
            println!("ended process {id}");
        }
    }
    std::fs::remove_file(note)?;
    Ok(())
}
