//! A real Kubernetes cluster on this machine, by the script `kubelab` of a directory that the caller
//! names: nodes are namespaces with a containerd, a kubelet and a kube-proxy each.
//!
//! Its namespaces have fixed names, so a machine has one cluster at a time; test runs take turns.

mod flannel;
mod pods;
mod server;
mod steps;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::run::{output, words};
use crate::scope::Scope;
use crate::wait::until;

pub use flannel::CONFLIST as FLANNEL_CONFLIST;
pub use pods::{IMAGE, Pod};
pub use server::Stopped;
pub use steps::Steps;

/// Environment variable that names the directory of `kubelab`.
pub const DIRECTORY: &str = "OXLAN_KUBELAB";

/// Who holds it has the cluster; it says `up` while there is one.
const LOCK: &str = "/run/oxlan-kubelab.lock";

/// A namespace of every cluster of the script.
const CONTROL_PLANE: &str = "/run/netns/kcp";

/// How long something may take that a controller does, on a busy machine.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Address of the control plane, which is outside of the nodes and of the pods' network.
pub const OUTSIDE: &str = "10.99.0.254";

/// A running cluster. Dropping it removes it.
pub struct Lab {
    script: PathBuf,
    scope: Scope,
    lock: Flock<File>,
}

impl Lab {
    /// Waits for its turn and starts a cluster; the arguments are those of `kubelab up`.
    ///
    /// # Errors
    /// If it does not start, or somebody has started one by hand.
    pub fn up(directory: &Path, arguments: &str) -> Result<Self> {
        let script = directory.join("kubelab");
        ensure!(script.is_file(), "there is no {}", script.display());
        let mut lock = take_turn()?;
        let mut said = String::new();
        lock.read_to_string(&mut said)?;
        let mut lab = Self {
            script,
            scope: Scope::for_test()?,
            lock,
        };
        if Path::new(CONTROL_PLANE).exists() {
            if said != "up" {
                // Not ours to remove.
                let script = lab.script.display().to_string();
                std::mem::forget(lab);
                bail!("a cluster is up that no test has started: `{script} down` removes it");
            }
            lab.down()?;
        }
        lab.note("up")?;
        lab.run(&format!("up {arguments}"))?;
        Ok(lab)
    }

    /// The script with arguments, split at blanks.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, arguments: &str) -> Result<String> {
        output(
            Command::new(&self.script)
                .args(words(arguments))
                .stdin(Stdio::null()),
        )
    }

    /// Runs `kubectl`, with arguments that are split at blanks.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl(&self, arguments: &str) -> Result<String> {
        self.run(&format!("kubectl {arguments}"))
    }

    /// Runs `kubectl` with arguments as they are, and this text on its standard input.
    ///
    /// # Errors
    /// If it fails; the text holds what it said.
    pub fn kubectl_with(&self, arguments: &[&str], text: &str) -> Result<String> {
        let file = self.scope.dir().join("stdin");
        std::fs::write(&file, text)?;
        let mut command = Command::new(&self.script);
        command.arg("kubectl").args(arguments);
        output(command.stdin(File::open(&file)?))
    }

    /// Applies objects.
    ///
    /// # Errors
    /// If the server refuses one.
    pub fn apply(&self, objects: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], objects)
    }

    /// An object as the server has it; the arguments are those of `kubectl get`.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, arguments: &str) -> Result<Value> {
        let text = self.kubectl(&format!("get {arguments} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("no JSON for {arguments}"))
    }

    /// Runs a command line in the namespaces of a node.
    ///
    /// # Errors
    /// If it fails.
    pub fn node(&self, number: u8, line: &str) -> Result<String> {
        self.run(&format!("node {number} {line}"))
    }

    /// What a node's agent answers on its socket. Needs no API server.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn agent(&self, number: u8, path: &str) -> Result<Value> {
        let socket = "--unix-socket /run/oxlan/agent.sock";
        let text = self.node(
            number,
            &format!("curl -sS -m 5 {socket} http://oxlan/v1/{path}"),
        )?;
        serde_json::from_str(&text)
            .with_context(|| format!("the agent of node {number} says {text}"))
    }

    /// Waits until every node is Ready.
    ///
    /// # Errors
    /// If one is not in time; the text tells its conditions.
    pub fn nodes_ready(&self) -> Result<()> {
        self.kubectl("wait --for=condition=Ready node --all --timeout=60s")
            .map(drop)
    }

    /// Waits until all of a DaemonSet's pods are of its newest version and ready.
    ///
    /// # Errors
    /// If they are not in time; the text holds what the agents log.
    pub fn rolled_out(&self, name: &str) -> Result<()> {
        let done = self.kubectl(&format!(
            "-n oxlan rollout status daemonset {name} --timeout=90s"
        ));
        done.map(drop).map_err(|error| {
            let logs =
                "-n oxlan logs --all-containers --prefix --tail=30 -l app.kubernetes.io/name";
            let logs = self.kubectl(&format!("{logs}={name}"));
            error.context(format!("agents: {logs:?}"))
        })
    }

    /// Whether a node is Ready.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn is_ready(&self, number: u8) -> Result<bool> {
        let node = self.get(&format!("node kn{number}"))?;
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "Ready");
        Ok(ready.is_some_and(|condition| condition["status"] == "True"))
    }

    /// The script.
    pub fn script(&self) -> &Path {
        &self.script
    }

    /// Where this run keeps files, and by whose prefix its namespaces are named.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Directory of the script's files about the running cluster.
    fn run_dir() -> PathBuf {
        let directory = std::env::var_os("KUBELAB_DIR");
        let directory = directory.map_or_else(|| PathBuf::from("/var/tmp/kubelab"), PathBuf::from);
        directory.join("run")
    }

    fn down(&mut self) -> Result<()> {
        self.run("down")?;
        self.note("")
    }

    fn note(&mut self, text: &str) -> Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        self.lock.write_all(text.as_bytes())?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("clean-up: {error:#}");
        }
    }
}

/// The lock, once nobody else has it. Programs that are started do not inherit it.
fn take_turn() -> Result<Flock<File>> {
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(LOCK);
    let file = file.with_context(|| format!("cannot open {LOCK}"))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, _)) => file,
    };
    eprintln!("another test run has its cluster up: waiting for it");
    let mut waiting = Some(file);
    until(MINUTE * 15, "turn", || {
        let file = waiting.take().context("no lock")?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| {
            waiting = Some(file);
            errno.into()
        })
    })
}
