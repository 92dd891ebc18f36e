//! Takes everything of Oxlan off a node. What is gone already is no error, and the failure of one
//! thing does not keep the others from being removed.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::{Lock, LockError};
use crate::cluster::traces::{Kind, Outcome};
use crate::datapath;
use crate::host::device::{self, Device};
use crate::host::layer3;
use crate::host::rtnl::{Rtnl, RtnlError};
use crate::host::sysctl::Originals;
use crate::host::{masquerade, nftables, ports};
use crate::pods::HOST_IFNAME_PREFIX;
use crate::reconcile::desire::OVERLAY;

/// Where `oxlan install-cni` puts things if it is not told otherwise.
const PLUGIN_PATH: &str = "/opt/cni/bin/oxlan-cni";
const CONFIGURATION_PATH: &str = "/etc/cni/net.d/10-oxlan.conflist";

/// Hexadecimal digits behind the prefix in the name of a pod's host side.
const HOST_IFNAME_DIGITS: usize = 11;

/// Where the agent kept things.
#[derive(Debug, Clone)]
pub struct Directories {
    /// Its socket.
    pub run: PathBuf,
    /// Its attachments.
    pub state: PathBuf,
    /// Its pins.
    pub bpf: PathBuf,
}

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Removed {
    /// In words, one thing each.
    pub done: Vec<String>,
    /// What could not be removed, with the reason.
    pub failed: Vec<String>,
    /// What is not only this node's, with the command that removes it.
    pub left: Vec<String>,
}

impl Removed {
    fn note<E: Error>(&mut self, what: impl Into<String>, outcome: Result<(), E>) {
        let what = what.into();
        match outcome {
            Ok(()) => self.done.push(what),
            Err(error) => self.fail(&what, &error),
        }
    }

    fn fail(&mut self, what: &str, error: &dyn Error) {
        let reason = datapath::chain(error);
        self.failed.push(format!("{what}: {reason}"));
    }
}

/// Removes every trace of Oxlan from the node whose network namespace the caller is in.
///
/// # Errors
/// When an agent is running; nothing is removed then.
pub fn cleanup(directories: &Directories) -> Result<Removed, LockError> {
    let lock = Lock::take(&directories.run)?;
    let mut removed = Removed::default();
    match datapath::remove_all(&directories.bpf) {
        Ok(pins) => removed
            .done
            .extend(pins.into_iter().map(|p| format!("the pin {p}"))),
        Err(error) => removed.fail("the pinned programs and maps", &error),
    }
    match Rtnl::open() {
        Ok(mut rtnl) => {
            devices(&mut rtnl, &mut removed);
            routes(&mut rtnl, &mut removed);
        }
        Err(error) => removed.fail("devices and routes", &error),
    }
    for table in [masquerade::TABLE, ports::TABLE] {
        let what = format!("the nftables table inet {table}");
        match nftables::remove(table) {
            Ok(true) => removed.done.push(what),
            Ok(false) => {}
            Err(error) => removed.fail(&what, &error),
        }
    }
    sysctls(&directories.state, &mut removed);
    traces(&directories.state, &mut removed);
    files(directories, &mut removed);
    drop(lock);
    Ok(removed)
}

fn devices(rtnl: &mut Rtnl, removed: &mut Removed) {
    let all = match device::devices(rtnl) {
        Ok(all) => all,
        Err(error) => return removed.fail("devices", &error),
    };
    for device in all.iter().filter(|d| is_ours(d)) {
        // Removing one side of a pair removes the pod's side with it.
        let outcome = device::remove(rtnl, &device.name);
        removed.note(format!("the device {}", device.name), outcome);
    }
}

fn is_ours(device: &Device) -> bool {
    if device.name == OVERLAY {
        return device.vxlan.is_some_and(|v| v.external);
    }
    let digits = device.name.strip_prefix(HOST_IFNAME_PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == HOST_IFNAME_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn routes(rtnl: &mut Rtnl, removed: &mut Removed) {
    let routes: Result<Vec<_>, RtnlError> = layer3::routes(rtnl);
    match routes {
        Ok(routes) => {
            for route in routes {
                let outcome = layer3::remove_route(rtnl, &route);
                removed.note(format!("the route to {}", route.destination), outcome);
            }
        }
        Err(error) => removed.fail("routes", &error),
    }
}

fn sysctls(state_dir: &Path, removed: &mut Removed) {
    let (done, failed) = Originals::open(state_dir).restore();
    let done = done.into_iter().map(|what| format!("sysctls: {what}"));
    removed.done.extend(done);
    for error in failed {
        removed.fail("sysctls", &error);
    }
}

/// What the agent has written for others: another program's file, the cluster's own records.
fn traces(state_dir: &Path, removed: &mut Removed) {
    for kind in Kind::ALL {
        match kind.take_away(state_dir) {
            Outcome::Removed(path) => removed.done.push(path.display().to_string()),
            Outcome::Left(what) => removed.left.push(what),
            Outcome::Failed(path, error) => removed.fail(&path.display().to_string(), &error),
            Outcome::Gone => {}
        }
    }
    let installed = [PLUGIN_PATH, CONFIGURATION_PATH];
    for path in installed
        .into_iter()
        .filter(|path| Path::new(path).exists())
    {
        removed.left.push(format!(
            "{path}; remove it with: oxlan install-cni --remove"
        ));
    }
}

/// Only files that are known to be the agent's, and directories only when that leaves them empty.
fn files(directories: &Directories, removed: &mut Removed) {
    let state = &directories.state;
    let attachments = state.join("attachments");
    match std::fs::read_dir(&attachments) {
        Ok(entries) => {
            for path in entries.flatten().map(|e| e.path()) {
                remove(&path, removed);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => removed.fail(&attachments.display().to_string(), &error),
    }
    remove(&state.join("ipam.json"), removed);
    for kind in Kind::ALL {
        remove(&kind.path(state), removed);
    }
    for source in crate::cluster::REMEMBERING {
        remove(crate::cluster::Cache::new(state, source).path(), removed);
    }
    remove(&directories.run.join(crate::api::SOCKET), removed);
    remove(&directories.run.join(super::lock::FILE), removed);
    for directory in [&attachments, state, &directories.run] {
        match std::fs::remove_dir(directory) {
            Ok(()) => removed.done.push(directory.display().to_string()),
            // Somebody else's files, or a mount point, are no trace of Oxlan.
            Err(error) if stays(error.kind()) => {}
            Err(error) => removed.fail(&directory.display().to_string(), &error),
        }
    }
}

fn stays(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotFound
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::ResourceBusy
            // What mount points are called in a container whose own files are read-only.
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn remove(path: &Path, removed: &mut Removed) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => removed.note(path.display().to_string(), outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::device::Vxlan;
    use oxlan_common::addr::Mac;

    fn device(name: &str, vxlan: Option<Vxlan>) -> Device {
        Device {
            name: name.into(),
            ifindex: 9,
            mtu: 1450,
            mac: Mac::ZERO,
            up: true,
            arp: true,
            makes_address: false,
            ethernet: true,
            nowhere: false,
            vxlan,
        }
    }

    #[test]
    fn only_our_devices_are_taken() {
        let external = Some(Vxlan {
            port: 8472,
            external: true,
        });
        let fixed = Some(Vxlan {
            port: 8472,
            external: false,
        });
        for (name, vxlan, ours) in [
            ("oxlan0", external, true),
            ("oxlan0", fixed, false),
            ("oxlan0", None, false),
            ("oxl0123456789a", None, true),
            ("oxl0123456789", None, false),
            ("oxlabcdefghijk", None, false),
            ("eth0", None, false),
            ("flannel.1", fixed, false),
        ] {
            assert_eq!(is_ours(&device(name, vxlan)), ours, "{name}");
        }
    }

    #[test]
    fn files_of_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let directories = Directories {
            run: at("run"),
            state: at("state"),
            bpf: at("bpf"),
        };
        std::fs::create_dir_all(at("state/attachments")).unwrap();
        std::fs::create_dir_all(at("run")).unwrap();
        for file in [
            "state/attachments/x-eth0.json",
            "state/ipam.json",
            "state/cluster-kube.json",
            "state/cluster-etcd.json",
            "run/agent.sock",
            "run/mine",
        ] {
            std::fs::write(at(file), "").unwrap();
        }
        let mut removed = Removed::default();
        files(&directories, &mut removed);
        assert!(removed.failed.is_empty(), "{removed:?}");
        assert!(!at("state").exists());
        assert!(at("run/mine").exists());
        assert!(!at("run/agent.sock").exists());
    }
}
