//! A virtual machine: how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::accelerator::Accelerator;
use super::kernel::Kernel;
use crate::workspace;

/// One processor: with several, each of which is a thread of the emulator that may be held up,
/// the kernel reorders packets whenever a sender changes processors.
const EMULATOR: &str =
    "qemu-system-x86_64 -smp 1 -nodefaults -no-user-config -no-reboot -display none";

/// Directories that a machine has for itself, empty; see `init.sh`.
const OWN: [&str; 3] = ["/run", "/tmp", "/var/lib"];

/// What ends a program whose parent has ended.
const FOLLOW_PARENT: &str = "setpriv --pdeathsig TERM";

/// A machine that is to run a script.
pub(super) struct Machine<'a> {
    /// Where its files are.
    pub(super) dir: &'a Path,
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) accelerator: Accelerator,
    /// Memory in MiB.
    pub(super) memory: u32,
    /// Minutes after which it is switched off, whatever it does; none: it outlives who started it.
    pub(super) limit: Option<u32>,
    /// Its serial ports, and other devices, as options of QEMU; without, its console is on the
    /// standard output, and what it says on the second port is kept for [`is_done`](Self::is_done).
    pub(super) devices: Option<String>,
    /// What it does once it has its root, after `inside.sh`.
    pub(super) script: &'a str,
}

impl Machine<'_> {
    /// The command that boots it and shows its console. Its files can be used by hand, too.
    pub(super) fn command(&self) -> Result<Command> {
        let dir = self.dir.canonicalize()?;
        let boot = dir.join("boot.sh");
        let inside = format!("{}\n{}", include_str!("inside.sh"), self.script);
        std::fs::write(dir.join("inside.sh"), inside)
            .and_then(|()| std::fs::write(&boot, self.boot_script(&dir)?))
            .with_context(|| format!("cannot write to {}", dir.display()))?;
        let _ = std::fs::remove_file(done_file(&dir));
        let mut command = Command::new("sh");
        command.arg(boot);
        Ok(command)
    }

    /// Whether its script came to its end, and the kernel had nothing to complain about.
    pub(super) fn is_done(&self) -> bool {
        std::fs::read_to_string(done_file(self.dir)).is_ok_and(|text| text.contains("done"))
    }

    /// What boots it. On its second port it says that it has done everything.
    fn boot_script(&self, dir: &Path) -> std::io::Result<String> {
        let absolute = |path: &Path| path.canonicalize().map(|path| path.display().to_string());
        let accelerator = self.accelerator.options();
        let guard = self.limit.map_or_else(String::new, |minutes| {
            format!("{FOLLOW_PARENT} timeout --foreground {minutes}m {FOLLOW_PARENT} ")
        });
        let done = done_file(dir);
        let ports = format!("-serial stdio -serial file:{}", done.display());
        Ok(format!(
            "# Boots Linux {release} and runs inside.sh there; written by `cargo xtask vm`.\n\
             exec {guard}{EMULATOR} \\\n    \
             {accelerator} -m {memory} -kernel {image} -initrd {initramfs} \\\n    \
             -append 'console=ttyS0 quiet panic=-1 oxlan.modules={modules} oxlan.script={dir}/inside.sh oxlan.covered={covered}' \\\n    \
             -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \\\n    \
             {devices} </dev/null\n",
            release = self.kernel.release,
            memory = self.memory,
            image = absolute(&self.kernel.image)?,
            modules = absolute(&self.kernel.modules)?,
            initramfs = absolute(self.initramfs)?,
            dir = dir.display(),
            covered = covered(&[
                workspace::root().canonicalize()?,
                workspace::target().canonicalize()?,
            ]),
            devices = self.devices.as_ref().unwrap_or(&ports),
        ))
    }
}

/// Those of the paths that a machine's own directories cover, to be brought back there.
fn covered(paths: &[PathBuf]) -> String {
    let mut found: Vec<&Path> = Vec::new();
    for path in paths {
        let is_covered = OWN.iter().any(|own| path.starts_with(own));
        if is_covered && !found.iter().any(|known| path.starts_with(known)) {
            found.push(path);
        }
    }
    let found: Vec<String> = found
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    found.join(":")
}

fn done_file(dir: &Path) -> PathBuf {
    dir.join("done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_covers_is_brought_back() {
        for (root, target, expected) in [
            ("/work/oxlan", "/work/oxlan/target", ""),
            ("/tmp/oxlan", "/tmp/oxlan/target", "/tmp/oxlan"),
            ("/work/oxlan", "/var/lib/ci/target", "/var/lib/ci/target"),
            ("/run/a", "/tmp/b", "/run/a:/tmp/b"),
            ("/tmpfs/oxlan", "/var/libs/target", ""),
        ] {
            assert_eq!(covered(&[root.into(), target.into()]), expected);
        }
    }
}
