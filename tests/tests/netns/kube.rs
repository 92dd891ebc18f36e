//! Agents whose cluster is Kubernetes, with an API server that does what a test wants.

mod bad_input;
mod faults;
mod life;
mod many_nodes;
mod outage;
mod underlays;

use std::path::PathBuf;

use anyhow::{Context, Result};
use oxlan_tests::cluster::{Cluster, Families, Shape};
use oxlan_tests::kube_api::{KubeApi, PREFIX, bare_node};
use oxlan_tests::node::Node;
use oxlan_tests::scope::Scope;
use oxlan_tests::underlay::node_v6;
use oxlan_tests::wait::{SOON, until, until_true};
use serde_json::{Value, json};

/// Nodes without agents, and the API server.
struct Site {
    cluster: Cluster,
    api: KubeApi,
}

/// Flannel's configuration of the network of [`Shape`]'s pods.
fn net_conf() -> Value {
    json!({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}})
}

fn with_site(nodes: u8, test: impl FnOnce(&Site) -> Result<()>) {
    let shape = Shape {
        v6: false,
        ..Shape::nodes(nodes)
    };
    with_shape(shape, &net_conf(), test);
}

fn with_shape(shape: Shape, net_conf: &Value, test: impl FnOnce(&Site) -> Result<()>) {
    let site = Scope::for_test().and_then(|scope| Site::create(scope, shape, net_conf));
    let site = site.unwrap_or_else(|error| panic!("there is no site: {error:?}"));
    if let Err(error) = test(&site) {
        panic!("{error:?}");
    }
}

impl Site {
    fn create(scope: Scope, shape: Shape, net_conf: &Value) -> Result<Self> {
        let cluster = Cluster::create(scope, shape)?;
        let places = cluster.nodes.iter().map(|n| n.netns.clone()).collect();
        let api = KubeApi::start(places)?;
        let site = Self { cluster, api };
        site.write("kubeconfig", &site.api.kubeconfig(&json!({})))?;
        site.write("net-conf.json", &net_conf.to_string())?;
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.scope().dir().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text)?;
        std::fs::rename(new, self.path(name)).context("cannot replace a file")
    }

    fn node(&self, number: usize) -> &Node {
        &self.cluster.nodes[number - 1]
    }

    /// Registers a node with Kubernetes, as its kubelet does.
    fn register(&self, number: usize) {
        let node = self.node(number);
        let v4 = node.underlay.to_string();
        let internal = match self.cluster.shape.underlay {
            Families::V4 => vec![v4],
            Families::V6 => vec![node_v6(node.number).to_string()],
            Families::Both => vec![v4, node_v6(node.number).to_string()],
        };
        self.api
            .put(bare_node(&node.name, &node.pod_cidrs, &internal));
    }

    fn spawn_agent(&self, number: usize) -> Result<()> {
        self.spawn_agent_with(number, &[])
    }

    /// The same with more environment variables.
    fn spawn_agent_with(&self, number: usize, more: &[(&str, &str)]) -> Result<()> {
        let node = self.node(number);
        let path = |name: &str| self.path(name).display().to_string();
        let environment = [
            ("OXLAN_SOURCE", "kube".to_owned()),
            ("OXLAN_KUBECONFIG", path("kubeconfig")),
            ("OXLAN_NET_CONF", path("net-conf.json")),
            (
                "OXLAN_SUBNET_ENV",
                path(&format!("{}-subnet.env", node.name)),
            ),
        ];
        let own = environment.iter().map(|(k, v)| (*k, v.as_str()));
        let environment: Vec<(&str, &str)> = own.chain(more.iter().copied()).collect();
        node.spawn_agent_with(&environment)
    }

    /// Registers every node and starts its agent.
    fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same with more environment variables.
    fn start_with(&self, more: &[(&str, &str)]) -> Result<()> {
        let numbers = 1..=self.cluster.nodes.len();
        for number in numbers.clone() {
            self.register(number);
            self.spawn_agent_with(number, more)?;
        }
        for number in numbers.clone() {
            self.node(number).wait_ready()?;
        }
        for number in numbers {
            let all = self.cluster.nodes.len();
            until_true(SOON, "all nodes", || {
                Ok(names(self.node(number))?.len() == all)
            })?;
        }
        Ok(())
    }
}

/// Names of the nodes that an agent knows.
fn names(node: &Node) -> Result<Vec<String>> {
    let rows = node.oxlan_json("nodes")?;
    let rows = rows.as_array().context("no list of nodes")?;
    let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
    Ok(rows.iter().map(name).collect())
}

/// What an agent says of a node of the cluster.
fn row(node: &Node, name: &str) -> Result<Value> {
    let rows = node.oxlan_json("nodes")?;
    let rows = rows.as_array().context("no list of nodes")?;
    let row = rows.iter().find(|row| row["name"] == name);
    row.cloned().with_context(|| format!("no node {name}"))
}

fn wait_for_node(node: &Node, name: &str) -> Result<()> {
    until(SOON, &format!("node {name}"), || row(node, name)).map(drop)
}

fn wait_until_gone(node: &Node, name: &str) -> Result<()> {
    until_true(SOON, &format!("end of node {name}"), || {
        Ok(row(node, name).is_err())
    })
}

/// Waits for a line of `oxlan status` under `problems` or `notes` that contains a text.
fn wait_for_remark(node: &Node, list: &str, text: &str) -> Result<()> {
    until(SOON, &format!("{text:?} in {list}"), || {
        let status = node.oxlan_json("status")?;
        let lines = status[list].as_array().context("no list")?;
        let found = lines
            .iter()
            .any(|l| l.as_str().is_some_and(|l| l.contains(text)));
        found.then_some(()).with_context(|| format!("{lines:?}"))
    })
}

fn wait_until_no_problem(node: &Node) -> Result<()> {
    until(SOON, "end of the problems", || {
        let problems = &node.oxlan_json("status")?["problems"];
        let none = problems.as_array().is_some_and(Vec::is_empty);
        none.then_some(()).with_context(|| problems.to_string())
    })
}

fn annotation(node: &Value, what: &str) -> Value {
    node["metadata"]["annotations"][format!("{PREFIX}/{what}")].clone()
}

/// Waits until the agent has both nodes in its state on disk.
fn wait_until_stored(node: &Node) -> Result<()> {
    let file = node.dirs.state.join("cluster-kube.json");
    until_true(SOON, "state on disk with both nodes", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Ok(text.contains("node-1") && text.contains("node-2"))
    })
}
