//! Debian packages that are unpacked into the target directory instead of installed.
//!
//! Installing containerd or etcd would start services on the host, and busybox-static would replace busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::exec::{as_root, exec, find_program, output};
use crate::workspace::tools;

/// What the tests with containers and with etcd and the demo's HTTP server use.
const PACKAGES: [&str; 6] = [
    "containerd",
    "runc",
    "busybox-static",
    "containernetworking-plugins",
    "etcd-server",
    "etcd-client",
];

/// Unpacks [`PACKAGES`] into `target/tools/debs`.
pub(super) fn ensure() -> Result<Outcome> {
    let to = tools().join("debs");
    let complete = to.join("complete");
    // What it says is what was unpacked, so that a package that is added later is unpacked, too.
    if std::fs::read_to_string(&complete).is_ok_and(|packages| packages == PACKAGES.join(" ")) {
        return Ok(Outcome::Ready);
    }
    if find_program("apt-get").is_none() {
        bail!("there is no apt-get here, so the tests with containerd and etcd are skipped");
    }
    println!("==> unpacking {}", PACKAGES.join(" "));
    let archives = tools().join("archives");
    recreate(&archives)?;
    download(&archives)?;
    recreate(&to)?;
    unpack_all(&archives, &to)?;
    std::fs::remove_dir_all(&archives)?;
    std::fs::write(&complete, PACKAGES.join(" "))?;
    Ok(Outcome::Installed)
}

/// Unpacks one package of a version from a suite that this machine need not know, without root.
pub(super) fn unpack_from(suite: &str, package: &str, version: &str, to: &Path) -> Result<()> {
    let apt = PrivateApt::new(&tools().join("apt"), suite)?;
    exec(apt.command("apt-get").arg("update"))?;
    let known = output(apt.command("apt-cache").args(["madison", package]))?;
    let full = pick_version(&known, version)
        .with_context(|| format!("`{suite}` has no {package} {version}"))?;
    let archives = tools().join("archives");
    recreate(&archives)?;
    exec(
        apt.command("apt-get")
            .args(["download", &format!("{package}={full}")])
            .current_dir(&archives),
    )?;
    recreate(to)?;
    unpack_all(&archives, to)?;
    std::fs::remove_dir_all(&archives)?;
    Ok(())
}

/// The package version with this upstream version, from the lines of `apt-cache madison`.
fn pick_version<'a>(madison: &'a str, upstream: &str) -> Option<&'a str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| {
            version
                .strip_prefix(upstream)
                .is_some_and(|rest| rest.starts_with(['+', '-']))
        })
}

fn download(to: &Path) -> Result<()> {
    let download = || {
        let mut command = Command::new("apt-get");
        command
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
            .args(PACKAGES);
        command.current_dir(to);
        command
    };
    if output(&mut download()).is_ok() {
        return Ok(());
    }
    println!("==> updating the package lists");
    exec(&mut as_root("apt-get", &["update", "-qq"])?)?;
    exec(&mut download())
}

/// Unpacks the packages of a directory.
pub(crate) fn unpack_all(archives: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(archives)? {
        let archive = entry?.path();
        exec(Command::new("dpkg").arg("-x").arg(archive).arg(to))?;
    }
    Ok(())
}

/// Makes an empty directory.
pub(crate) fn recreate(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("cannot clear {}", directory.display()))?;
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))
}

/// apt with its own lists and sources, so that nothing of the system changes and no root is needed.
pub(crate) struct PrivateApt {
    configuration: PathBuf,
}

impl PrivateApt {
    /// Keeps everything in the directory `base`; `suite` is a line of `sources.list`.
    pub(crate) fn new(base: &Path, suite: &str) -> Result<Self> {
        for directory in [
            "state/lists/partial",
            "cache/archives/partial",
            "sources.list.d",
        ] {
            std::fs::create_dir_all(base.join(directory))?;
        }
        std::fs::write(base.join("sources.list"), format!("{suite}\n"))?;
        let configuration = base.join("apt.conf");
        let dir = base.display();
        std::fs::write(
            &configuration,
            format!(
                "Dir::Etc::SourceList \"{dir}/sources.list\";\n\
                 Dir::Etc::SourceParts \"{dir}/sources.list.d\";\n\
                 Dir::State \"{dir}/state\";\n\
                 Dir::Cache \"{dir}/cache\";\n\
                 APT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\n\
                 quiet \"1\";\n"
            ),
        )?;
        Ok(Self { configuration })
    }

    /// One of apt's programs.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_toolchain_is_picked() {
        let madison = "\
 rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages
 rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages
";
        assert_eq!(
            pick_version(madison, "1.95.0"),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(pick_version(madison, "1.9"), None);
    }
}
