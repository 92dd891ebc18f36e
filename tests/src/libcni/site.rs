//! Nodes on which a test plays the container runtime.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Attachment, Libcni, plugin_directories};
use crate::binaries::unpacked;
use crate::cluster::{Cluster, Shape, with_cluster};
use crate::netns::Netns;
use crate::node::Node;
use crate::skip::skip;

/// A node, libcni on it, and namespaces for containers.
#[derive(Debug)]
pub struct Site<'a> {
    /// The whole cluster.
    pub cluster: &'a Cluster,
    /// Its first node.
    pub node: &'a Node,
    /// libcni of a runtime there.
    pub libcni: Libcni,
}

/// Runs a test with libcni on the first of two nodes.
///
/// # Panics
///
/// If the cluster does not start, or the test fails.
pub fn with_site(test: impl FnOnce(&Site<'_>) -> Result<()>) {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let libcni = Libcni::new(node.netns.clone(), plugin_directories()?);
        test(&Site {
            cluster,
            node,
            libcni,
        })
    });
}

/// The same for tests that call reference plugins, or says why it cannot.
///
/// # Panics
///
/// As [`with_site`].
pub fn with_references(test: impl FnOnce(&Site<'_>) -> Result<()>) {
    match unpacked("usr/lib/cni/tuning") {
        Ok(_) => with_site(test),
        Err(missing) => skip(&format!("{missing:#}")),
    }
}

impl Site<'_> {
    /// Our plugin's own configuration.
    #[must_use]
    pub fn plugin(&self) -> Value {
        json!({"type": "oxlan-cni", "runDir": self.node.dirs.run})
    }

    /// A network of Oxlan and what comes after it.
    #[must_use]
    pub fn network(&self, version: &str, after: &[Value]) -> Value {
        let mut plugins = vec![self.plugin()];
        plugins.extend_from_slice(after);
        json!({"cniVersion": version, "name": "oxlan", "plugins": plugins})
    }

    /// A namespace for a container, and what a runtime says of it.
    ///
    /// # Errors
    ///
    /// If there is one with this name.
    pub fn attachment(&self, name: &str) -> Result<(Netns, Attachment)> {
        let netns = self.node.pod_netns(name)?;
        let attachment = Attachment {
            container: netns.name().to_owned(),
            netns: netns.path().to_string_lossy().into_owned(),
            ifname: "eth0".to_owned(),
            ..Attachment::default()
        };
        Ok((netns, attachment))
    }

    /// Expects that this many pods are attached, and devices for no others.
    ///
    /// # Errors
    ///
    /// If there are more or less.
    pub fn expect_pods(&self, number: usize) -> Result<()> {
        let pods = self.node.oxlan_json("pods")?;
        let rows = pods.as_array().context("not a list")?;
        ensure!(rows.len() == number, "not {number}: {pods}");
        let devices = self.node.netns.run("ip -o link show type veth")?;
        let hosts = devices.lines().filter(|line| line.contains(": oxl"));
        ensure!(hosts.count() == number, "not {number}: {devices}");
        Ok(())
    }
}

/// One text field of every element of a list.
#[must_use]
pub fn column(result: &Value, list: &str, field: &str) -> Vec<String> {
    let rows = result[list].as_array().into_iter().flatten();
    rows.filter_map(|row| row[field].as_str().map(str::to_owned))
        .collect()
}
