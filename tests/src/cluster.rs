//! A cluster of nodes on one machine.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::flannel::PlainNode;
use crate::node::Node;
use crate::scope::Scope;
use crate::underlay::Underlay;
use crate::wait::{SOON, until_true};
use crate::xdp;

/// The underlay's MTU unless a test says otherwise.
pub const UNDERLAY_MTU: u32 = 1500;

/// What a cluster consists of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Nodes with an agent.
    pub nodes: u8,
    /// Nodes with a kernel bridge and VXLAN device instead, after the others.
    pub plain_nodes: u8,
    /// Whether pods have IPv4 addresses.
    pub v4: bool,
    /// Whether pods have IPv6 addresses.
    pub v6: bool,
    /// MTU of the underlay, bytes.
    pub mtu: u32,
    /// Families of the nodes' underlay addresses.
    pub underlay: Families,
    /// Whether agents get `--xdp on`, and the wires what that needs.
    pub xdp: bool,
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
}

impl Families {
    /// Those of two that belong to these families.
    fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Both => vec![v4, v6],
        }
    }
}

impl Shape {
    /// This many nodes with agents and pods of both families.
    #[must_use]
    pub const fn nodes(nodes: u8) -> Self {
        Self {
            nodes,
            plain_nodes: 0,
            v4: true,
            v6: true,
            mtu: UNDERLAY_MTU,
            xdp: false,
            underlay: Families::V4,
        }
    }

    /// The same over an underlay of these families.
    #[must_use]
    pub const fn over(self, underlay: Families) -> Self {
        Self { underlay, ..self }
    }

    /// The underlay addresses of a node in the cluster file: one as [`node_entry`] writes it, two as a list.
    fn underlay(self, number: u8) -> String {
        use crate::underlay::{node_v4, node_v6};
        let addresses = self
            .underlay
            .of(node_v4(number).to_string(), node_v6(number).to_string());
        match addresses.as_slice() {
            [address] => format!("{address:?}"),
            addresses => format!("{addresses:?}"),
        }
    }

    /// The same with XDP on the uplinks.
    #[must_use]
    pub const fn with_xdp(mut self) -> Self {
        self.xdp = true;
        self
    }

    /// Pod CIDRs of the node with this number.
    fn pod_cidrs(self, number: u8) -> Vec<String> {
        self.families(
            format!("10.244.{number}.0/24"),
            format!("fd00:244:0:{number:x}::/64"),
        )
    }

    /// Pod CIDRs of the cluster.
    fn network(self) -> Vec<String> {
        self.families("10.244.0.0/16".to_owned(), "fd00:244::/48".to_owned())
    }

    fn families(self, v4: String, v6: String) -> Vec<String> {
        [self.v4.then_some(v4), self.v6.then_some(v6)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Nodes, joined by an underlay.
#[derive(Debug)]
pub struct Cluster {
    /// Nodes with an agent.
    pub nodes: Vec<Node>,
    /// Nodes that are set up as Flannel sets them up.
    pub plain: Vec<PlainNode>,
    /// What joins them.
    pub underlay: Underlay,
    /// Its form.
    pub shape: Shape,
    scope: Scope,
}

/// Runs a test with a cluster of this shape; when it fails, the agents' logs are part of its output.
///
/// # Panics
///
/// If the cluster does not start, or the test fails.
#[expect(clippy::panic, reason = "a failed test reports by panicking")]
pub fn with_cluster(shape: Shape, test: impl FnOnce(&Cluster) -> Result<()>) {
    let started = Scope::for_test().and_then(|scope| Cluster::start(scope, shape));
    let cluster = started.unwrap_or_else(|error| panic!("the cluster did not start: {error:?}"));
    if let Err(error) = test(&cluster) {
        panic!("{error:?}");
    }
}

impl Cluster {
    /// Makes the nodes and starts their agents.
    ///
    /// # Errors
    ///
    /// If a step fails; what was made is removed.
    pub fn start(scope: Scope, shape: Shape) -> Result<Self> {
        let cluster = Self::create(scope, shape)?;
        cluster.nodes.iter().try_for_each(Node::spawn_agent)?;
        cluster.nodes.iter().try_for_each(Node::wait_ready)?;
        cluster.connect_plain_nodes()?;
        Ok(cluster)
    }

    /// Makes the nodes without starting agents.
    ///
    /// # Errors
    ///
    /// If a step fails; what was made is removed.
    pub fn create(scope: Scope, shape: Shape) -> Result<Self> {
        let shape = Shape {
            xdp: shape.xdp || xdp::is_demanded(),
            ..shape
        };
        let mut underlay = Underlay::create(&scope, shape.mtu)?;
        underlay.xdp = shape.xdp;
        let file = scope.dir().join("cluster.toml");
        let mut nodes = Vec::new();
        let mut plain = Vec::new();
        for number in 1..=shape.nodes + shape.plain_nodes {
            let netns = scope.netns(&format!("node-{number}"))?;
            underlay.connect(&netns, number)?;
            let cidrs = shape.pod_cidrs(number);
            if number <= shape.nodes {
                let mut node = Node::new(&scope, number, netns, cidrs, file.clone());
                node.xdp = shape.xdp;
                nodes.push(node);
            } else {
                plain.push(PlainNode::create(&scope, number, netns, shape)?);
            }
        }
        let cluster = Self {
            nodes,
            plain,
            underlay,
            shape,
            scope,
        };
        cluster.write_file(&cluster.file_text())?;
        Ok(cluster)
    }

    fn connect_plain_nodes(&self) -> Result<()> {
        for plain in &self.plain {
            self.nodes
                .iter()
                .try_for_each(|node| plain.add_oxlan_peer(node))?;
            for peer in self.plain.iter().filter(|peer| peer.number != plain.number) {
                plain.add_peer(peer.number, &peer.vtep_macs)?;
            }
        }
        Ok(())
    }

    /// The cluster file, which all agents watch.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.scope.dir().join("cluster.toml")
    }

    /// Replaces the cluster file atomically, as editors and configuration management do.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_file(&self, text: &str) -> Result<()> {
        let new = self.file().with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, self.file()))
            .with_context(|| format!("cannot write {}", self.file().display()))
    }

    /// The cluster file's text for the nodes that there are.
    #[must_use]
    pub fn file_text(&self) -> String {
        let mut text = format!("[network]\npod_cidrs = {:?}\n", self.shape.network());
        for node in &self.nodes {
            let cidrs = self.shape.pod_cidrs(node.number);
            let underlay = self.shape.underlay(node.number);
            text.push_str(&entry(&node.name, &cidrs, &underlay, ""));
        }
        for node in &self.plain {
            let [v4, v6] = node.vtep_macs.clone();
            let macs = format!("vtep_mac = {:?}\n", self.shape.underlay.of(v4, v6));
            let cidrs = self.shape.pod_cidrs(node.number);
            let underlay = self.shape.underlay(node.number);
            text.push_str(&entry(&node.name, &cidrs, &underlay, &macs));
        }
        text
    }

    /// Writes the cluster file with another mode of the network.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn set_mode(&self, mode: &str) -> Result<()> {
        let table = format!("[network]\nmode = \"{mode}\"\n");
        self.write_file(&self.file_text().replacen("[network]\n", &table, 1))
    }

    /// Changes over to the mode `direct`, with a route to each pod CIDR.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a route, or a node does not follow.
    pub fn go_without_encapsulation(&self) -> Result<()> {
        self.route_pods()?;
        self.set_mode("direct")?;
        self.nodes.iter().try_for_each(|node| {
            until_true(SOON, "ways without encapsulation", || {
                let routes = node.oxlan_json("routes")?;
                let rows = routes.as_array().context("no routes")?;
                let mut others = rows.iter().filter(|row| row["local"] == false);
                Ok(others.all(|row| row["direct"] == true && row["reachable"] == true))
            })
        })
    }

    /// Makes routes with gateways to all pod CIDRs, as a routing daemon does for nodes on one link.
    fn route_pods(&self) -> Result<()> {
        use crate::underlay::{node_v4, node_v6};
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|n| n.number != node.number) {
                for cidr in &other.pod_cidrs {
                    let gateway: std::net::IpAddr = if cidr.contains(':') {
                        node_v6(other.number).into()
                    } else {
                        node_v4(other.number).into()
                    };
                    node.netns
                        .run(&format!("ip route replace {cidr} via {gateway}"))?;
                }
            }
        }
        Ok(())
    }

    /// Leaves everything running when this value is dropped; [`crate::scope::remove`] ends it.
    pub fn keep(&mut self) {
        self.nodes.iter().for_each(Node::release_agent);
        self.scope.keep();
    }

    /// What the cluster's things are named after.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// The lines of one node in a cluster file.
#[must_use]
pub fn node_entry(name: &str, pod_cidrs: &[String], number: u8, more: &str) -> String {
    let underlay = crate::underlay::node_v4(number);
    entry(name, pod_cidrs, &format!("\"{underlay}\""), more)
}

/// The same with underlay addresses as they stand in the file.
pub(crate) fn entry(name: &str, pod_cidrs: &[String], underlay: &str, more: &str) -> String {
    format!(
        "\n[[node]]\nname = \"{name}\"\npod_cidrs = {pod_cidrs:?}\nunderlay = {underlay}\n{more}"
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                println!("--- log of {}\n{}", node.name, node.log());
            }
        }
    }
}
