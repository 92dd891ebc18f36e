//! A node without a kernel's datapath: a fake one in memory, but real namespaces and veths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, unshare};
use oxlan_common::addr::Addr;
use oxlan_common::maps::PodValue;
use tempfile::TempDir;
use tokio::sync::RwLock;

use crate::host::link;
use crate::host::rtnl::Rtnl;
use crate::pods::crash::Steps;
use crate::pods::{AddRequest, DatapathFault, Key, NodeFacts, PodDatapath, PodLabels, Pods, Step};

/// Outlives the agents of a test, as pinned maps and links do.
#[derive(Default)]
pub(crate) struct FakeDatapath {
    pub(crate) pods: Mutex<BTreeMap<Addr, PodValue>>,
    pub(crate) attached: Mutex<BTreeSet<(String, u32)>>,
    /// What is refused, by the name of the operation.
    pub(crate) refuse: Mutex<Option<&'static str>>,
}

impl FakeDatapath {
    fn ask(&self, operation: &str) -> Result<(), DatapathFault> {
        match *self.refuse.lock().unwrap() {
            Some(refused) if refused == operation => Err("refused by the test".into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.lock().unwrap().is_empty() && self.attached.lock().unwrap().is_empty()
    }
}

impl PodDatapath for FakeDatapath {
    fn attach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault> {
        self.ask("attach")?;
        self.attached
            .lock()
            .unwrap()
            .insert((ifname.into(), ifindex));
        Ok(())
    }

    fn detach(&self, ifname: &str, ifindex: u32) -> Result<(), DatapathFault> {
        self.ask("detach")?;
        let gone = |(name, index): &(String, u32)| name == ifname && [0, *index].contains(&ifindex);
        self.attached.lock().unwrap().retain(|entry| !gone(entry));
        Ok(())
    }

    fn unattached(&self, ifname: &str, ifindex: u32) -> Result<Vec<&'static str>, DatapathFault> {
        let attached = self.attached.lock().unwrap();
        let is_there = attached.contains(&(ifname.into(), ifindex));
        Ok(if is_there { vec![] } else { vec!["from_pod"] })
    }

    fn set_pod(&self, address: Addr, value: PodValue) -> Result<(), DatapathFault> {
        self.ask("set")?;
        self.pods.lock().unwrap().insert(address, value);
        Ok(())
    }

    fn remove_pod(&self, address: Addr) -> Result<(), DatapathFault> {
        self.ask("remove")?;
        self.pods.lock().unwrap().remove(&address);
        Ok(())
    }

    fn pod(&self, address: Addr) -> Result<Option<PodValue>, DatapathFault> {
        Ok(self.pods.lock().unwrap().get(&address).copied())
    }
}

/// A node's state directory and datapath, over which agents come and go.
pub(crate) struct Node {
    pub(crate) state: TempDir,
    pub(crate) datapath: Arc<FakeDatapath>,
    pub(crate) facts: NodeFacts,
}

impl Node {
    pub(crate) fn new(cidrs: &[&str]) -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            datapath: Arc::default(),
            facts: NodeFacts {
                pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
                mtu: 1450,
            },
        }
    }

    /// A new agent on this node, which has looked at what its predecessor left.
    pub(crate) async fn agent(&self) -> Pods {
        self.agent_with(|_| {}).await
    }

    /// The same; `reached` is called after each step of ADD and DEL.
    pub(crate) async fn agent_with(&self, reached: impl Fn(Step) + Send + Sync + 'static) -> Pods {
        let pods = self.unready_agent(reached);
        let report = pods.restore().await.unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        pods
    }

    /// An agent that has not looked at anything yet.
    pub(crate) fn unready_agent(&self, reached: impl Fn(Step) + Send + Sync + 'static) -> Pods {
        let pods = Pods::with_steps(
            self.state.path(),
            self.datapath.clone(),
            self.facts.clone(),
            Arc::new(RwLock::new(())),
            Steps::new(reached),
        );
        pods.unwrap()
    }

    /// Records and host sides of veths that exist now.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = std::fs::read_dir(self.state.path().join("attachments"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.extend(host_sides());
        left.sort();
        left
    }
}

/// Names of the host sides in the calling thread's namespace.
pub(crate) fn host_sides() -> Vec<String> {
    // A fresh mount is not needed: /proc/thread-self/net follows the thread's namespace.
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim());
    names
        .filter(|n| n.starts_with("oxl"))
        .map(String::from)
        .collect()
}

/// A container's network namespace; it ends when this is dropped.
pub(crate) struct Container {
    pub(crate) id: String,
    _namespace: File,
    /// Holds the namespace's name. A file descriptor's own path would, after its end, be another
    /// test's file.
    names: TempDir,
}

impl Container {
    pub(crate) fn new(id: &str) -> Self {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = std::thread::spawn(open).join().unwrap();
        let names = TempDir::new().unwrap();
        let fd = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        std::os::unix::fs::symlink(fd, names.path().join(id)).unwrap();
        Self {
            id: id.into(),
            _namespace: namespace,
            names,
        }
    }

    pub(crate) fn netns(&self) -> String {
        self.names.path().join(&self.id).display().to_string()
    }

    pub(crate) fn key(&self) -> Key {
        Key {
            container_id: self.id.clone(),
            ifname: "eth0".into(),
        }
    }

    pub(crate) fn request(&self) -> AddRequest {
        AddRequest {
            ports: Vec::new(),
            bandwidth: crate::pods::Bandwidth::default(),
            key: self.key(),
            network: "oxlan".into(),
            netns: self.netns(),
            mtu: None,
            pod: PodLabels::default(),
        }
    }

    /// Takes the namespace's name away until [`Self::show`].
    pub(crate) fn hide(&self) {
        std::fs::rename(self.netns(), format!("{}.hidden", self.netns())).unwrap();
    }

    pub(crate) fn show(&self) {
        std::fs::rename(format!("{}.hidden", self.netns()), self.netns()).unwrap();
    }

    /// Runs a command inside; its output.
    pub(crate) fn run(&self, command: &str) -> String {
        let netns = crate::host::netns::Netns::open(self.netns().as_ref()).unwrap();
        let run = || {
            std::process::Command::new("sh")
                .args(["-c", command])
                .output()
                .unwrap()
        };
        let output = netns.run(run).unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8(text).unwrap()
    }

    /// Interfaces inside, except the loopback.
    pub(crate) fn has(&self, ifname: &str) -> bool {
        let netns = crate::host::netns::Netns::open(self.netns().as_ref()).unwrap();
        let find = || link::find(&mut Rtnl::open().unwrap(), ifname).unwrap();
        netns.run(find).unwrap().is_some()
    }
}

/// Runs a test on a node's own network namespace; skips it, saying why, where that is impossible.
pub(crate) fn on_a_node<F: Future<Output = ()>>(overlay: &[&str], test: impl FnOnce() -> F + Send) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    std::thread::scope(|scope| {
        let run = || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                skip(
                    &name,
                    &format!("a network namespace cannot be made ({error}): run it as root"),
                );
                return;
            }
            for address in overlay {
                // The real agent has it on its overlay device.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                shell(&format!(
                    "ip link set lo up && ip address add {address} dev lo {nodad}"
                ));
            }
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(test());
        };
        scope.spawn(run).join().unwrap();
    });
}

/// In the form that `cargo xtask test` counts, and past the harness, which would keep it to itself.
pub(crate) fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

pub(crate) fn shell(command: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", command])
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}

/// Removes a link whose other end is going away with its namespace: whoever is first, the kernel or this, it is gone afterwards.
pub(crate) fn remove_link(name: &str) {
    shell(&format!(
        "ip link del {name} 2>/dev/null; ! ip link show {name} 2>/dev/null"
    ));
}
