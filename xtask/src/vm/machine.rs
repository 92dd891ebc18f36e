//! The virtual machine: how it is started, and what it does.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::workspace;

/// How many times longer than on a real processor things may take.
const SLOWNESS: u32 = 6;

/// After which the machine is switched off, whatever it does.
const LIMIT: &str = "40m";

/// One processor: with several, each of which is a thread of the emulator that may be held up,
/// the kernel reorders packets whenever a sender changes processors.
const EMULATOR: &str = "qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 2048 -nodefaults \
    -no-user-config -no-reboot -display none";

/// A test executable and which of its tests to run.
pub(super) struct Run<'a> {
    pub(super) name: &'a str,
    pub(super) path: &'a str,
    /// Parts of names; all tests when empty.
    pub(super) tests: Vec<&'a str>,
}

/// The command that boots the machine, shows its console and fails unless all was run.
pub(super) fn command(
    dir: &Path,
    kernel: &Kernel,
    initramfs: &Path,
    runs: &[Run<'_>],
) -> Result<Command> {
    let dir = dir.canonicalize()?;
    let boot = dir.join("boot.sh");
    let inside = dir.join("inside.sh");
    std::fs::write(&inside, inside_script(&kernel.release, runs))
        .and_then(|()| std::fs::write(&boot, boot_script(&dir, kernel, initramfs)?))
        .with_context(|| format!("cannot write to {}", dir.display()))?;
    let mut command = Command::new("sh");
    command.arg(boot);
    Ok(command)
}

/// What boots the machine. It says on its second port that it has run everything.
fn boot_script(dir: &Path, kernel: &Kernel, initramfs: &Path) -> std::io::Result<String> {
    let absolute = |path: &Path| path.canonicalize().map(|path| path.display().to_string());
    let dir = dir.display();
    Ok(format!(
        "# Boots Linux {release} and runs tests there; written by `cargo xtask test vm`.\n\
         rm -f {dir}/done\n\
         timeout {LIMIT} {EMULATOR} -kernel {image} -initrd {initramfs} \\\n    \
         -append 'console=ttyS0 quiet panic=-1 oxlan.modules={modules} oxlan.script={dir}/inside.sh' \\\n    \
         -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \\\n    \
         -serial stdio -serial file:{dir}/done </dev/null\n\
         grep -q done {dir}/done\n",
        release = kernel.release,
        image = absolute(&kernel.image)?,
        modules = absolute(&kernel.modules)?,
        initramfs = absolute(initramfs)?,
    ))
}

/// What the machine does once it has its root.
fn inside_script(release: &str, runs: &[Run<'_>]) -> String {
    let mut script = String::from(include_str!("inside.sh"));
    let _ = writeln!(script, "export OXLAN_TEST_SLOWNESS={SLOWNESS}");
    let _ = writeln!(script, "cd {}", workspace::root().display());
    for Run { name, path, tests } in runs {
        let _ = writeln!(script, "echo '     Running {name} on {release}-'");
        let tests = tests.join(" ");
        let _ = writeln!(
            script,
            "{path} --color never --test-threads 1 {tests} || failed=1"
        );
    }
    script.push_str("finish\n");
    script
}
