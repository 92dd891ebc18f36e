//! A cluster whose agents are told of each other by etcd.

use anyhow::{Context, Result};
use oxlan_tests::binaries::unpacked;
use oxlan_tests::cluster::{Cluster, Families, Shape};
use oxlan_tests::etcd::Etcd;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::scope::Scope;
use oxlan_tests::skip::skip;
use oxlan_tests::underlay::node_v6;
use oxlan_tests::wait::{SOON, until, until_true};

/// Where Flannel has its keys.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// Both families.
pub(crate) const DUAL: &str = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48","Backend":{"Type":"vxlan"}}"#;

/// IPv4 alone.
pub(crate) const SINGLE: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// What a test is about.
pub(crate) struct Site {
    pub(crate) etcd: Etcd,
    pub(crate) cluster: Cluster,
}

/// Runs a test with nodes of this shape, without agents, and this many members of etcd; or says why it cannot.
pub(crate) fn with_site(
    shape: Shape,
    members: u16,
    encrypted: bool,
    test: impl FnOnce(&mut Site) -> Result<()>,
) {
    if let Err(missing) = unpacked("usr/bin/etcd") {
        return skip(&format!("{missing:#}"));
    }
    let started = Scope::for_test().and_then(|scope| {
        let cluster = Cluster::create(scope, shape)?;
        let etcd = Etcd::start(cluster.scope(), &cluster.underlay, members, encrypted)?;
        Ok(Site { etcd, cluster })
    });
    let mut site = started.unwrap_or_else(|error| panic!("it did not start: {error:?}"));
    if let Err(error) = test(&mut site) {
        panic!("{error:?}");
    }
}

impl Site {
    /// Writes the network's configuration.
    pub(crate) fn configure(&self, text: &str) -> Result<()> {
        self.etcd
            .ctl(&["put", &format!("{PREFIX}/config"), text])
            .map(drop)
    }

    /// Writes a subnet's key as another node would, without a lease.
    pub(crate) fn put(&self, name: &str, value: &str) -> Result<()> {
        self.etcd.ctl(&["put", &key(name), value]).map(drop)
    }

    /// Starts the agent of the node with this index and waits until it is ready.
    pub(crate) fn start(&self, index: usize) -> Result<&Node> {
        let node = &self.cluster.nodes[index];
        self.spawn(index, &[])?;
        node.wait_ready()?;
        Ok(node)
    }

    /// Starts the agent of the node with this index, with more environment variables.
    pub(crate) fn spawn(&self, index: usize, more: &[(&str, &str)]) -> Result<()> {
        let node = &self.cluster.nodes[index];
        let (v4, v6) = (node.underlay, node_v6(node.number));
        let underlay = match self.cluster.shape.underlay {
            Families::V4 => v4.to_string(),
            Families::V6 => v6.to_string(),
            Families::Both => format!("{v4},{v6}"),
        };
        let underlay = [("OXLAN_UNDERLAY", underlay.as_str())];
        self.spawn_anywhere(index, &[&underlay[..], more].concat())
    }

    /// The same without a word on where the node is on the underlay.
    pub(crate) fn spawn_anywhere(&self, index: usize, more: &[(&str, &str)]) -> Result<()> {
        let endpoints = self.etcd.endpoints();
        // Every node has its own; that of the machine is not touched.
        let subnet_env = self.cluster.nodes[index].dirs.run.with_extension("env");
        let subnet_env = subnet_env.display().to_string();
        let mut environment = vec![
            ("OXLAN_SUBNET_ENV", subnet_env.as_str()),
            ("OXLAN_SOURCE", "etcd"),
            ("OXLAN_ETCD_ENDPOINTS", endpoints.as_str()),
        ];
        environment.extend_from_slice(more);
        self.cluster.nodes[index].spawn_agent_with(&environment)
    }
}

/// The key of a subnet.
pub(crate) fn key(name: &str) -> String {
    format!("{PREFIX}/subnets/{name}")
}

/// A value as Flannel writes it, of the node with this number.
pub(crate) fn value(number: u8, mac: &str) -> String {
    let address = oxlan_tests::underlay::node_v4(number);
    format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// The node's own prefixes, as its agent tells.
pub(crate) fn own(node: &Node) -> Result<Vec<String>> {
    texts(node, "pod_cidrs")
}

/// What is wrong, as the agent tells.
pub(crate) fn problems(node: &Node) -> Result<Vec<String>> {
    texts(node, "problems")
}

fn texts(node: &Node, field: &str) -> Result<Vec<String>> {
    let status = node.oxlan_json("status")?;
    let all = status[field]
        .as_array()
        .with_context(|| format!("no {field}"))?;
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(text).collect())
}

/// Waits until the agent knows so many nodes.
pub(crate) fn wait_for_nodes(node: &Node, count: usize) -> Result<()> {
    until_true(SOON, "all nodes to be known", || {
        Ok(node.oxlan_json("status")?["nodes"] == count)
    })
}

/// Waits until one of the problems holds this text.
pub(crate) fn wait_for_problem(node: &Node, text: &str) -> Result<()> {
    until(SOON, text, || {
        let all = problems(node)?;
        anyhow::ensure!(all.iter().any(|p| p.contains(text)), "only {all:?}");
        Ok(())
    })
}

/// Waits until nothing is wrong.
pub(crate) fn wait_for_peace(node: &Node) -> Result<()> {
    until(SOON, "end of all problems", || {
        let all = problems(node)?;
        anyhow::ensure!(all.is_empty(), "{all:?}");
        Ok(())
    })
}

/// Both directions, both families; right after a change the first packets may be lost.
pub(crate) fn wait_for_talk(a: &Pod, b: &Pod) -> Result<()> {
    until(SOON, "talk between the pods", || {
        for (from, to) in [(a, b), (b, a)] {
            to.addresses().try_for_each(|address| from.ping(address))?;
        }
        Ok(())
    })
}
