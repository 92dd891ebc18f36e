//! What must be right before the agent touches anything. Everything that is wrong is found at
//! once, so that nobody has to start the agent five times to learn of five problems.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::device::Device;

/// The oldest kernel on which the tests are run (`cargo xtask test vm`). Older ones lack what the programs call
/// (flags of `bpf_skb_adjust_room` before 5.13, `bpf_xdp_load_bytes` before 5.18) or have verifiers that
/// nobody has tried the programs with.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities that the agent uses, by number (include/uapi/linux/capability.h).
pub(crate) const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// Something that keeps the agent from working, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The process may not do what it must.
    #[error(
        "the agent lacks {missing}: start it as root, or give its container the capabilities that deploy/oxlan.yaml names"
    )]
    Capabilities {
        /// Names of the missing capabilities.
        missing: String,
    },
    /// The kernel is too old.
    #[error("the kernel is {release}, and {}.{} or later is needed", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    Kernel {
        /// What `uname -r` says.
        release: String,
    },
    /// The kernel does not describe its types.
    #[error(
        "/sys/kernel/btf/vmlinux is missing: the kernel needs CONFIG_DEBUG_INFO_BTF, and /sys must be mounted"
    )]
    NoBtf,
    /// The directory for pins is not on a bpffs.
    #[error("{path} is not on a BPF file system: mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NoBpffs {
        /// The directory that the options name.
        path: PathBuf,
    },
    /// A directory cannot be used.
    #[error("cannot write to {path} ({option})")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// A program is missing.
    #[error("the program `{program}` is not in PATH: install the package {package}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// Kernel parameters cannot be changed.
    #[error(
        "{path} is not writable: in a container mount the host's /proc/sys/net and name it with --proc-sys, as deploy/oxlan.yaml does"
    )]
    Sysctl {
        /// The file that was tried.
        path: PathBuf,
    },
    /// Pods shall have IPv6 and the kernel has none.
    #[error(
        "pods shall have addresses of {prefix}, but this kernel has no IPv6 (is it started with ipv6.disable=1?)"
    )]
    NoIpv6 {
        /// The IPv6 prefix.
        prefix: IpNet,
    },
    /// Another VXLAN device has the port.
    #[error(
        "the VXLAN device {device} has UDP port {port} already: remove it with `ip link delete {device}`, or give the cluster another port"
    )]
    PortTaken {
        /// The other device.
        device: String,
        /// The port.
        port: u16,
    },
}

/// Where the agent keeps things.
#[derive(Debug, Clone, Copy)]
pub struct Directories<'a> {
    /// `--run-dir`.
    pub run: &'a Path,
    /// `--state-dir`.
    pub state: &'a Path,
    /// `--bpf-dir`.
    pub bpf: &'a Path,
}

/// Everything about the machine that is wrong, independent of the cluster.
#[must_use]
pub fn machine(directories: &Directories<'_>) -> Vec<Trouble> {
    let mut troubles: Vec<Trouble> = [
        capabilities(),
        kernel(release()),
        btf(),
        bpffs(directories.bpf),
        program("nft", "nftables"),
        sysctls(),
    ]
    .into_iter()
    .flatten()
    .collect();
    troubles.extend(writable(directories.run, "--run-dir"));
    troubles.extend(writable(directories.state, "--state-dir"));
    troubles
}

/// Everything about the machine that does not fit the cluster.
#[must_use]
pub fn fit(pod_cidrs: &[IpNet], port: u16, own_device: &str, devices: &[Device]) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let v6 = pod_cidrs.iter().find(|p| matches!(p, IpNet::V6(_)));
    if let Some(prefix) = v6.filter(|_| !Path::new("/proc/sys/net/ipv6").exists()) {
        troubles.push(Trouble::NoIpv6 { prefix: *prefix });
    }
    let others = devices.iter().filter(|d| d.name != own_device);
    let same_port = others.filter(|d| d.vxlan.is_some_and(|v| v.port == port));
    troubles.extend(same_port.map(|d| Trouble::PortTaken {
        device: d.name.clone(),
        port,
    }));
    troubles
}

fn capabilities() -> Option<Trouble> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    (!missing.is_empty()).then(|| Trouble::Capabilities {
        missing: missing.join(", "),
    })
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(number, _)| effective >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect()
}

fn kernel(release: String) -> Option<Trouble> {
    (version(&release)? < OLDEST_KERNEL).then_some(Trouble::Kernel { release })
}

/// What `uname -r` says.
#[must_use]
pub fn release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    text.unwrap_or_default().trim().to_owned()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf() -> Option<Trouble> {
    (!Path::new("/sys/kernel/btf/vmlinux").exists()).then_some(Trouble::NoBtf)
}

/// The directory itself need not exist yet.
fn bpffs(directory: &Path) -> Option<Trouble> {
    let existing = directory.ancestors().find(|d| d.exists())?;
    let on_bpffs = statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    (!on_bpffs).then(|| Trouble::NoBpffs {
        path: directory.to_owned(),
    })
}

fn program(name: &'static str, package: &'static str) -> Option<Trouble> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    (!found).then_some(Trouble::Program {
        program: name,
        package,
    })
}

fn sysctls() -> Option<Trouble> {
    let path = super::sysctl::file("net/ipv4/ip_forward");
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    file.err().map(|_| Trouble::Sysctl { path })
}

fn writable(directory: &Path, option: &'static str) -> Option<Trouble> {
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    let tried = std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&probe, ""))
        .and_then(|()| std::fs::remove_file(&probe));
    tried.err().map(|source| Trouble::Directory {
        path: directory.to_owned(),
        option,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::device::Vxlan;
    use oxlan_common::addr::Mac;

    #[test]
    fn capabilities_are_read_from_status() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert!(missing_capabilities(all).is_empty());
        let some = "CapEff:\t0000000000201000\n";
        assert_eq!(missing_capabilities(some), ["CAP_BPF"]);
        assert_eq!(missing_capabilities("").len(), 3);
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert!(version("5.15.0").unwrap() < OLDEST_KERNEL);
        assert!(version("6.1.0-28-amd64").unwrap() >= OLDEST_KERNEL);
        assert_eq!(version("nonsense"), None);
    }

    #[test]
    fn an_older_kernel_is_refused_by_its_release() {
        let trouble = kernel("5.15.0-91-generic".into()).unwrap();
        assert_eq!(
            trouble.to_string(),
            "the kernel is 5.15.0-91-generic, and 6.1 or later is needed"
        );
        assert!(kernel("6.1.0-28-amd64".into()).is_none());
        // Nobody knows how old this one is; the verifier will tell.
        assert!(kernel("custom".into()).is_none());
    }

    #[test]
    fn another_vxlan_device_on_the_port_is_trouble() {
        let device = |name: &str, port| Device {
            name: name.into(),
            ifindex: 3,
            mtu: 1450,
            mac: Mac::ZERO,
            up: true,
            arp: true,
            makes_address: false,
            ethernet: true,
            nowhere: false,
            vxlan: Some(Vxlan {
                port,
                external: false,
            }),
        };
        let devices = [
            device("flannel.1", 8472),
            device("oxlan0", 8472),
            device("v", 1),
        ];
        let troubles = fit(&[], 8472, "oxlan0", &devices);
        assert_eq!(troubles.len(), 1);
        assert!(troubles[0].to_string().contains("ip link delete flannel.1"));
    }

    #[test]
    fn an_unusable_directory_names_its_option() {
        let trouble = writable(Path::new("/proc/nowhere"), "--run-dir").unwrap();
        assert!(trouble.to_string().contains("--run-dir"), "{trouble}");
    }
}
