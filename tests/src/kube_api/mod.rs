//! A server that speaks the part of the Kubernetes API that the agent uses, list, watch and patch
//! of Nodes, with faults on demand. For what a real server cannot do on demand.

mod nodes;
mod serve;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::netns::Netns;
use crate::wait::{SOON, until};
use nodes::Nodes;

/// What every Node has that takes part (Flannel, pkg/subnet/kube/annotations.go).
pub const PREFIX: &str = "flannel.alpha.coreos.com";

/// How the server misbehaves.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Status codes of the next answers to lists and watches.
    pub codes: Vec<u16>,
    /// How long every answer takes.
    pub delay: Duration,
    /// The only accepted bearer token; without one everybody is welcome.
    pub token: Option<String>,
    /// Whether patches are forbidden.
    pub read_only: bool,
    /// What is accepted and not answered, until that is no longer so.
    pub hang: Vec<Verb>,
    /// Whose answers stop in the middle, for good; of a watch's the next event.
    pub stall: Vec<Verb>,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A page of the Nodes.
    List,
    /// Events of Nodes.
    Watch,
    /// A change of a Node.
    Patch,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::List, Self::Watch, Self::Patch];
}

/// What was asked so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages of lists.
    pub pages: u64,
    /// Watches.
    pub watches: u64,
    /// Patches.
    pub patches: u64,
}

#[derive(Default)]
pub(crate) struct Shared {
    nodes: Nodes,
    faults: Faults,
    counts: Counts,
}

pub(crate) type State = Arc<Mutex<Shared>>;

pub(crate) fn lock(state: &State) -> MutexGuard<'_, Shared> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. It listens on the loopback address of each of its namespaces.
pub struct KubeApi {
    state: State,
    places: Vec<Netns>,
    port: u16,
    running: Mutex<Option<Runtime>>,
}

impl KubeApi {
    /// A server without Nodes, answering in these namespaces.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub fn start(places: Vec<Netns>) -> Result<Self> {
        let api = Self {
            state: State::default(),
            places,
            port: 6443,
            running: Mutex::default(),
        };
        api.come_back()?;
        Ok(api)
    }

    /// The server goes away: connections break, and new ones are refused.
    pub fn go_away(&self) {
        if let Some(runtime) = self.running().take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        lock(&self.state).nodes.end_watches();
    }

    /// The server is there again, with what it knew.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub fn come_back(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        for place in &self.places {
            let port = self.port;
            // A program that another test is just starting may still have the old socket, until it is another one.
            let listener = until(SOON, "free port", || {
                place.inside(|| {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    TcpListener::bind(address).context("cannot listen")
                })
            })?;
            listener.set_nonblocking(true)?;
            let state = Arc::clone(&self.state);
            runtime.spawn(serve::serve(listener, state));
        }
        *self.running() = Some(runtime);
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kubeconfig by which the agent finds the server; `user` is a piece of JSON as `{"tokenFile":"/x"}`.
    #[must_use]
    pub fn kubeconfig(&self, user: &Value) -> String {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }

    /// Adds or replaces a Node; it gets its version and, if it is new, the time at which it was made.
    pub fn put(&self, node: Value) {
        lock(&self.state).nodes.put(node);
    }

    /// Changes a Node.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut node = self.node(name)?;
        change(&mut node);
        self.put(node);
        Ok(())
    }

    /// Deletes a Node, telling those who watch.
    pub fn delete(&self, name: &str) {
        lock(&self.state).nodes.delete(name);
    }

    /// A Node as it is now.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn node(&self, name: &str) -> Result<Value> {
        let node = lock(&self.state).nodes.get(name);
        node.with_context(|| format!("no Node {name}"))
    }

    /// Sends an event to all watches, as `MODIFIED`, whatever it says.
    pub fn send(&self, kind: &str, object: &Value) {
        lock(&self.state).nodes.send(kind, object);
    }

    /// Breaks all watches off in the middle.
    pub fn disconnect(&self) {
        lock(&self.state).nodes.break_watches();
    }

    /// Forgets the history: who watches from an older version hears `410 Gone`.
    pub fn compact(&self) {
        lock(&self.state).nodes.compact();
    }

    /// Sets how the server misbehaves from now on.
    pub fn misbehave(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// What was asked so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }

    /// How many watches are open.
    #[must_use]
    pub fn watches(&self) -> usize {
        lock(&self.state).nodes.watches()
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// A Node as Kubernetes makes it, before anybody announces anything.
#[must_use]
pub fn bare_node(name: &str, pod_cidrs: &[String], internal: &[String]) -> Value {
    let addresses: Vec<Value> = internal
        .iter()
        .map(|a| serde_json::json!({"type": "InternalIP", "address": a}))
        .collect();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"foreign.example.com/x": "y"}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {
            "addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A Node as Flannel leaves it.
#[must_use]
pub fn flannel_node(name: &str, pod_cidr: &str, public_ip: &str, vtep_mac: &str) -> Value {
    let mut node = bare_node(name, &[pod_cidr.to_owned()], &[public_ip.to_owned()]);
    let data = serde_json::json!({"VNI": 1, "VtepMAC": vtep_mac}).to_string();
    for (key, value) in [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("public-ip", public_ip),
        ("backend-data", &data),
    ] {
        node["metadata"]["annotations"][format!("{PREFIX}/{key}")] = value.into();
    }
    node
}
