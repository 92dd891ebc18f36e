//! A cluster whose nodes run containers.

use std::process::Command;

use anyhow::{Context, Result};
use oxlan::pods::HOST_IFNAME_PREFIX;
use serde_json::{Value, json};

use super::Containerd;
use crate::binaries::{binary, unpacked};
use crate::cluster::{Cluster, Shape, with_cluster};
use crate::node::Node;
use crate::run::output;
use crate::skip::skip;

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

    /// What is on the node for its pods: devices, routes, records and map entries.
    ///
    /// # Errors
    ///
    /// If something cannot be listed.
    pub fn traces(&self) -> Result<Vec<String>> {
        let mut traces = self.map_entries()?;
        for list in ["-o link show type veth", "-4 route show", "-6 route show"] {
            let text = self.node.netns.run(&format!("ip {list}"))?;
            let ours = text.lines().filter(|line| names_pod_device(line));
            traces.extend(ours.map(|line| format!("ip {list}: {line}")));
        }
        let records = self.node.dirs.state.join("attachments");
        let listed = std::fs::read_dir(&records);
        for entry in listed.with_context(|| format!("cannot read {}", records.display()))? {
            traces.push(format!("record {}", entry?.file_name().display()));
        }
        Ok(traces)
    }

    /// Entries of `PODS`, but for the node's own addresses.
    fn map_entries(&self) -> Result<Vec<String>> {
        let map = self.node.dirs.bpf.join("maps/pods");
        let mut command = Command::new("bpftool");
        let text = output(command.args(["--json", "map", "dump", "pinned"]).arg(&map))?;
        let entries: Vec<Value> = serde_json::from_str(&text).context("bpftool prints no list")?;
        let entries = entries
            .into_iter()
            .map(|mut entry| entry["formatted"].take());
        let pods = entries.filter(|entry| entry["value"]["flags"] == 0);
        Ok(pods.map(|entry| format!("map entry {entry}")).collect())
    }
}

/// Whether a line names the host side of a pod's veth pair; `oxlan0` is the node's own.
fn names_pod_device(line: &str) -> bool {
    let mut names = line
        .split([' ', ':', '@'])
        .filter_map(|word| word.strip_prefix(HOST_IFNAME_PREFIX));
    names.any(|rest| rest.len() == 11 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_pods_are_told_from_the_overlay_device() {
        assert!(names_pod_device(
            "10.244.1.2 dev oxl0123456789a scope link src 10.244.1.0"
        ));
        assert!(names_pod_device(
            "7: oxl0123456789a@if2: <BROADCAST,MULTICAST,UP> mtu 1450"
        ));
        assert!(!names_pod_device(
            "10.244.0.0/16 dev oxlan0 scope link src 10.244.1.0"
        ));
    }
}
