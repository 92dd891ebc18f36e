//! A cluster whose nodes run containers.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Containerd;
use crate::binaries::{binary, unpacked};
use crate::cluster::{Cluster, Shape, with_cluster};
use crate::node::Node;
use crate::skip::skip;
use crate::traces;

/// A node and its container runtime.
#[derive(Debug)]
pub struct Host<'a> {
    /// The node.
    pub node: &'a Node,
    /// containerd, with `oxlan-cni` as its network.
    pub runtime: Containerd,
}

/// Runs a test with this many nodes that run containers on Oxlan, or says why it cannot.
///
/// # Panics
///
/// If the cluster does not start, or the test fails.
pub fn with_containers(nodes: u8, test: impl FnOnce(&Cluster, &[Host<'_>]) -> Result<()>) {
    if let Err(missing) = unpacked("usr/bin/containerd") {
        return skip(&format!("{missing:#}"));
    }
    with_cluster(Shape::nodes(nodes), |cluster| {
        let hosts = cluster.nodes.iter().map(|node| Host::start(cluster, node));
        let hosts: Vec<Host<'_>> = hosts.collect::<Result<_>>()?;
        test(cluster, &hosts)
    });
}

impl<'a> Host<'a> {
    fn start(cluster: &Cluster, node: &'a Node) -> Result<Self> {
        let runtime = Containerd::start(cluster.scope(), &node.netns, &node.name)?;
        runtime.install_plugin(&binary("oxlan-cni")?)?;
        let host = Self { node, runtime };
        // The newest version that libcni in Debian's containerd reads.
        host.runtime.configure(&host.network("1.0.0"))?;
        Ok(host)
    }

    /// The list of plugins with Oxlan alone, in a version of CNI.
    #[must_use]
    pub fn network(&self, version: &str) -> Value {
        let run_dir = &self.node.dirs.run;
        let plugin = json!({"type": "oxlan-cni", "runDir": run_dir});
        json!({"cniVersion": version, "name": "oxlan", "plugins": [plugin]})
    }

    /// What `oxlan pods` tells of a container, null if nothing.
    ///
    /// # Errors
    ///
    /// If the agent does not answer.
    pub fn record(&self, container: &str) -> Result<Value> {
        let id = self.runtime.cni_id(container);
        let all = self.node.oxlan_json("pods")?;
        let rows = all
            .as_array()
            .with_context(|| format!("not a list: {all}"))?;
        Ok(rows
            .iter()
            .find(|row| row["container_id"] == id.as_str())
            .cloned()
            .unwrap_or_default())
    }

    /// What is on the node for its pods; see [`traces::of_pods`].
    ///
    /// # Errors
    ///
    /// If something cannot be listed.
    pub fn traces(&self) -> Result<Vec<String>> {
        traces::of_pods(self.node)
    }
}
