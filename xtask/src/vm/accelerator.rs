//! Whether this machine's processor can run guests. Only a guest tells: KVM may be there and die at the first one.

use std::path::Path;
use std::process::{Command, Stdio};

use super::kernel::Kernel;

/// A guest that does nothing is done after a second or two.
const PROBE_LIMIT: &str = "30s";

/// What a guest says that was started only for that; see `init.sh`.
const SIGN_OF_LIFE: &str = "oxlan: a guest runs";

/// What runs a machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// The emulator.
    Tcg,
}

impl Accelerator {
    /// KVM if a guest can be started with it, else the emulator; says which, and why.
    pub(super) fn find(kernel: &Kernel, initramfs: &Path) -> Self {
        match refusal(kernel, initramfs) {
            None => {
                println!("==> the machines run with KVM");
                Self::Kvm
            }
            Some(reason) => {
                println!("==> the machines' processor is emulated: {reason}");
                Self::Tcg
            }
        }
    }

    /// Options of QEMU.
    pub(super) const fn options(self) -> &'static str {
        match self {
            Self::Kvm => "-accel kvm -cpu host",
            Self::Tcg => "-accel tcg -cpu max",
        }
    }

    /// How many times longer than on a real processor things may take.
    pub(super) const fn slowness(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 6,
        }
    }
}

/// Why KVM cannot be used.
fn refusal(kernel: &Kernel, initramfs: &Path) -> Option<String> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = device {
        return Some(format!("/dev/kvm cannot be opened ({error})"));
    }
    let mut guest = Command::new("timeout");
    guest.args([PROBE_LIMIT, "qemu-system-x86_64"]);
    guest.args(Accelerator::Kvm.options().split(' '));
    guest.args(["-smp", "1", "-m", "256", "-nodefaults", "-no-user-config"]);
    guest.args(["-no-reboot", "-display", "none", "-serial", "stdio"]);
    guest.arg("-kernel").arg(&kernel.image);
    guest.arg("-initrd").arg(initramfs);
    guest.args(["-append", "console=ttyS0 quiet panic=-1 oxlan.probe"]);
    let ended = match guest.stdin(Stdio::null()).output() {
        Ok(ended) => ended,
        Err(error) => return Some(format!("a guest cannot be started ({error})")),
    };
    if String::from_utf8_lossy(&ended.stdout).contains(SIGN_OF_LIFE) {
        return None;
    }
    let errors = String::from_utf8_lossy(&ended.stderr);
    let first = errors.lines().next().unwrap_or("it says nothing").trim();
    Some(format!("a guest with KVM does not come up ({first})"))
}
