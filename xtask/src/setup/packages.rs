//! Debian packages with the programs that building, tests and the demo run.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::exec::{as_root, can_be_root, exec, find_program, output};

/// A program, or a file by its path, and the packages that have it: the first that this distribution knows is installed.
const PROGRAMS: [Program; 17] = [
    ("ip", &["iproute2"]),
    ("tc", &["iproute2"]),
    ("bpftool", &["bpftool", "linux-tools-generic"]),
    ("nft", &["nftables"]),
    // What the plugin `portmap` sets its rules with.
    ("iptables", &["iptables"]),
    ("nsenter", &["util-linux"]),
    ("ping", &["iputils-ping"]),
    ("traceroute", &["traceroute"]),
    ("iperf3", &["iperf3"]),
    ("sockperf", &["sockperf"]),
    ("tcpdump", &["tcpdump"]),
    ("ethtool", &["ethtool"]),
    // What connections are measured with; its checker of dumps is the server, too.
    ("redis-benchmark", &["redis-tools"]),
    ("curl", &["curl"]),
    ("bird", &["bird2"]),
    ("sysctl", &["procps"]),
    // What makes certificates for the tests with etcd.
    ("openssl", &["openssl"]),
];

/// What crates are built with: etcd-client makes its messages with it.
const COMPILERS: [Program; 2] = [
    ("protoc", &["protobuf-compiler"]),
    (
        "/usr/include/google/protobuf/descriptor.proto",
        &["libprotobuf-dev"],
    ),
];

/// What only the tests in virtual machines need, which is large.
const EMULATOR: [Program; 1] = [("qemu-system-x86_64", &["qemu-system-x86"])];

/// What only Vagrant's machines need. Not `libvirt-daemon-system`, which would start services here.
const VAGRANT: [Program; 8] = [
    ("vagrant", &["vagrant"]),
    ("/usr/share/doc/vagrant-libvirt", &["vagrant-libvirt"]),
    ("libvirtd", &["libvirt-daemon"]),
    ("dnsmasq", &["dnsmasq-base"]),
    ("qemu-img", &["qemu-utils"]),
    ("mmdebstrap", &["mmdebstrap"]),
    ("mkfs.ext4", &["e2fsprogs"]),
    ("ssh", &["openssh-client"]),
];

/// What only the check for 64-bit ARM needs.
const ARM_COMPILER: [Program; 2] = [
    ("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu"]),
    (
        "/usr/aarch64-linux-gnu/include/stdlib.h",
        &["libc6-dev-arm64-cross"],
    ),
];

/// What only `bench --profile` needs.
const PROFILER: [Program; 1] = [("perf", &["linux-perf", "linux-tools-generic"])];

type Program = (&'static str, &'static [&'static str]);

pub(super) fn ensure() -> Result<Outcome> {
    ensure_programs(&PROGRAMS)
}

pub(super) fn ensure_compilers() -> Result<Outcome> {
    ensure_programs(&COMPILERS)
}

pub(super) fn ensure_emulator() -> Result<Outcome> {
    ensure_programs(&EMULATOR)
}

pub(super) fn ensure_vagrant() -> Result<Outcome> {
    ensure_programs(&VAGRANT)
}

pub(super) fn ensure_arm_compiler() -> Result<Outcome> {
    ensure_programs(&ARM_COMPILER)
}

pub(super) fn ensure_profiler() -> Result<Outcome> {
    ensure_programs(&PROFILER)
}

fn ensure_programs(programs: &[Program]) -> Result<Outcome> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(Outcome::Ready);
    }
    let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    if find_program("apt-get").is_none() {
        bail!(
            "there is no apt-get here; install these programs: {}",
            names.join(" ")
        );
    }
    install(&missing)
        .with_context(|| format!("these programs are missing: {}", names.join(" ")))?;
    let left: Vec<&str> = self::missing(programs)
        .iter()
        .map(|(program, _)| *program)
        .collect();
    if !left.is_empty() {
        bail!("still missing after the installation: {}", left.join(" "));
    }
    Ok(Outcome::Installed)
}

fn missing(programs: &[Program]) -> Vec<Program> {
    programs
        .iter()
        .filter(|(program, _)| !is_there(program))
        .copied()
        .collect()
}

fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        Path::new(program).exists()
    } else {
        find_program(program).is_some()
    }
}

fn install(missing: &[Program]) -> Result<()> {
    if missing
        .iter()
        .any(|(_, packages)| choose(packages).is_none())
    {
        update()?;
    }
    let mut packages = Vec::new();
    for (program, candidates) in missing {
        match choose(candidates) {
            Some(package) => packages.push(package),
            None => eprintln!(
                "missing: {program}: apt knows none of {}",
                candidates.join(", ")
            ),
        }
    }
    packages.dedup();
    println!("==> installing {}", packages.join(" "));
    // Package lists that are some weeks old name files that are gone: update them and try again.
    let Err(error) = apt_install(&packages) else {
        return Ok(());
    };
    if !can_be_root() {
        return Err(error);
    }
    update()?;
    apt_install(&packages)
}

fn choose(candidates: &[&'static str]) -> Option<&'static str> {
    candidates.iter().copied().find(|package| {
        let mut show = std::process::Command::new("apt-cache");
        output(show.args(["show", "--quiet=0", package])).is_ok_and(|text| !text.is_empty())
    })
}

fn update() -> Result<()> {
    println!("==> updating the package lists");
    exec(&mut as_root("apt-get", &["update", "-qq"])?)
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec![
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-qq",
        "-y",
    ];
    arguments.extend(["--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]);
    arguments.extend(packages);
    exec(as_root("env", &arguments)?.stdin(std::process::Stdio::null()))
}
