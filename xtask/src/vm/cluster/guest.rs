//! One machine of the cluster: what it is made of, and what it is told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::channel::Channel;
use super::wire::{Wire, tap};
use crate::vm::accelerator::Accelerator;
use crate::vm::kernel::Kernel;
use crate::vm::machine::Machine;
use crate::workspace;

/// A machine, which runs or not.
pub(super) struct Guest<'a> {
    pub(super) number: u8,
    kernel: &'a Kernel,
    initramfs: &'a Path,
    accelerator: Accelerator,
    dir: PathBuf,
}

/// Where a machine's console is.
pub(super) fn console(cluster: &Path, number: u8) -> PathBuf {
    cluster.join(format!("node-{number}")).join("console")
}

/// The cluster, as every node's file tells it.
pub(super) fn cluster_file(nodes: usize) -> String {
    let mut text =
        String::from("[network]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:10:244::/48\"]\n");
    for number in 1..=nodes {
        let _ = write!(
            text,
            "\n[[node]]\nname = \"node-{number}\"\n\
             pod_cidrs = [\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\"]\n\
             underlay = \"192.168.60.{number}\"\n"
        );
    }
    text
}

impl<'a> Guest<'a> {
    pub(super) fn new(
        number: u8,
        kernel: &'a Kernel,
        initramfs: &'a Path,
        accelerator: Accelerator,
    ) -> Self {
        Self {
            number,
            kernel,
            initramfs,
            accelerator,
            dir: super::dir().join(format!("node-{number}")),
        }
    }

    pub(super) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    pub(super) fn release(&self) -> &str {
        &self.kernel.release
    }

    /// Switches the machine on. What it has stored is where it was.
    pub(super) fn boot(&self, wire: &mut Wire, limit: Duration) -> Result<Channel> {
        std::fs::create_dir_all(self.dir.join("state"))?;
        let dir = self.dir.canonicalize()?;
        for port in ["console", "control"] {
            let _ = std::fs::remove_file(dir.join(port));
        }
        let machine = Machine {
            dir: &dir,
            kernel: self.kernel,
            initramfs: self.initramfs,
            accelerator: self.accelerator,
            memory: 768,
            limit: (!wire.keeps()).then_some(60),
            devices: Some(devices(&dir, self.number)),
            script: &self.script()?,
        };
        wire.start(self.number, &machine.command()?, &dir.join("qemu.log"))?;
        self.connect(wire, limit)
    }

    /// Waits until the emulator is there.
    fn connect(&self, wire: &mut Wire, limit: Duration) -> Result<Channel> {
        let began = Instant::now();
        loop {
            if let Ok(channel) = Channel::open(&self.dir.join("control"), limit) {
                return Ok(channel);
            }
            if !wire.runs(self.number) {
                let log = std::fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
                bail!("{} does not run: {}", self.name(), log.trim_end());
            }
            if began.elapsed() > limit {
                bail!("{} did not start within {limit:?}", self.name());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the machine does once it has its root.
    fn script(&self) -> Result<String> {
        let programs = workspace::target().join("debug").canonicalize();
        let programs = programs.context("the agent was not built")?;
        let files = super::dir().canonicalize()?;
        let number = self.number;
        Ok(format!(
            "node=node-{number} underlay=192.168.60.{number} underlay_v6=fd00:60::{number}\n\
             programs={} files={}\n{}",
            programs.display(),
            files.display(),
            include_str!("guest.sh")
        ))
    }
}

/// A network device with native XDP, a directory for what is stored, and the two serial ports.
///
/// virtio-net runs XDP with queues of its own to send by, one per processor: with less it warns and is
/// slower, so there are four.
fn devices(dir: &Path, number: u8) -> String {
    let dir = dir.display();
    let tap = tap(number);
    format!(
        "-netdev tap,id=wire,ifname={tap},script=no,downscript=no,queues=4 \
         -device virtio-net-pci,netdev=wire,mq=on,vectors=10,mac=52:54:00:00:60:{number:02x} \
         -virtfs local,path={dir}/state,mount_tag=state,security_model=none \
         -chardev socket,id=console,path={dir}/console,server=on,wait=off,logfile={dir}/console.log \
         -serial chardev:console \
         -chardev socket,id=control,path={dir}/control,server=on,wait=on -serial chardev:control"
    )
}
