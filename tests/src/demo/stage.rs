//! The stage: three nodes with their agents, two pods on each.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::interrupt;
use super::screen::{Cell, Screen, Style};
use crate::cluster::Cluster;
use crate::cni::Call;
use crate::netns::Netns;
use crate::node::Node;
use crate::pod::{IFNAME, Pod};

/// Pods and the number of their node.
const PODS: [(&str, u8); 6] = [
    ("client", 1),
    ("cache", 1),
    ("web", 2),
    ("api", 2),
    ("db", 3),
    ("batch", 3),
];

/// A pod with a name.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) name: &'static str,
    pub(super) node: u8,
    pub(super) pod: Pod,
}

/// Everything that takes part.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) actors: Vec<Actor>,
}

impl Stage<'_> {
    /// The pod with this name.
    pub(super) fn actor(&self, name: &str) -> Result<&Actor> {
        let found = self.actors.iter().find(|actor| actor.name == name);
        found.with_context(|| format!("no pod {name}"))
    }

    /// The node with this number, from 1 on.
    pub(super) fn node(&self, number: u8) -> Result<&Node> {
        let found = self.cluster.nodes.iter().find(|node| node.number == number);
        found.with_context(|| format!("no node {number}"))
    }
}

/// Starts an agent on each node and shows what each says about itself.
pub(super) fn start_agents(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    const WIDTHS: [usize; 5] = [8, 16, 18, 21, 21];
    screen.section("Three nodes");
    screen.say(
        "Each node is a network namespace with an uplink into a common switch, the underlay. On each \
         runs a real `oxlan agent`, which reads the same cluster file and fills its own BPF maps.",
    );
    screen.gap();
    screen.headings(
        &WIDTHS,
        &["node", "underlay", "pods from", "", "VTEP", "ready in"],
    );
    for node in &cluster.nodes {
        interrupt::check()?;
        let begin = Instant::now();
        node.start_agent()?;
        let ready = begin.elapsed();
        let status = node.oxlan_json("status")?;
        let cidr = |index: usize| text(&status["pod_cidrs"][index]);
        let cells = [
            Cell::new(&node.name, Style::Strong),
            text(&status["underlay"]).into(),
            cidr(0).into(),
            cidr(1).into(),
            text(&status["vtep_mac"]).into(),
            milliseconds(ready).into(),
        ];
        screen.row(&WIDTHS, &cells);
    }
    Ok(())
}

/// Starts the pods and shows what the plugin answered.
pub(super) fn start_pods<'a>(screen: &mut Screen, cluster: &'a Cluster) -> Result<Stage<'a>> {
    const WIDTHS: [usize; 6] = [8, 8, 13, 18, 19, 17];
    screen.section("Six pods");
    screen.say(
        "A pod is a network namespace. For each, `oxlan-cni ADD` is called as a container runtime calls \
         it: the request in the environment, the network's configuration on standard input.",
    );
    screen.gap();
    screen.headings(
        &WIDTHS,
        &[
            "pod",
            "node",
            "IPv4",
            "IPv6",
            "MAC",
            "host side",
            "ADD took",
        ],
    );
    let mut stage = Stage {
        cluster,
        actors: Vec::new(),
    };
    for (name, number) in PODS {
        interrupt::check()?;
        let node = stage.node(number)?;
        let begin = Instant::now();
        let pod = add(node, name).with_context(|| format!("ADD of pod {name} on {}", node.name))?;
        let took = begin.elapsed();
        let cells = [
            Cell::new(name, Style::Strong),
            node.name.as_str().into(),
            pod.ipv4()?.to_string().into(),
            pod.ipv6()?.to_string().into(),
            mac(&pod).into(),
            pod.host_ifname()?.into(),
            milliseconds(took).into(),
        ];
        screen.row(&WIDTHS, &cells);
        stage.actors.push(Actor {
            name,
            node: number,
            pod,
        });
    }
    Ok(stage)
}

/// Calls the plugin as containerd does for a pod of Kubernetes.
fn add(node: &Node, name: &str) -> Result<Pod> {
    let netns = node.pod_netns(name)?;
    let container = container_id()?;
    let path = netns.path().to_string_lossy().into_owned();
    let call = Call {
        verb: "ADD",
        container: &container,
        netns: &path,
        ifname: IFNAME,
        args: &format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={name}"),
        config: node.cni_config(),
    };
    let result = call.run(&node.netns)?.result()?;
    Pod::from_result(netns, &container, result)
}

/// 64 random hexadecimal digits, as runtimes name containers.
fn container_id() -> Result<String> {
    let uuid = || std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let digits = (uuid()? + &uuid()?).replace(['-', '\n'], "");
    Ok(digits)
}

/// MAC of the pod's own interface, from the plugin's answer.
fn mac(pod: &Pod) -> String {
    let inside = pod.result["interfaces"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["name"] == IFNAME));
    inside.map_or_else(String::new, |one| text(&one["mac"]))
}

/// Who can send: a pod, a node's own stack, the internet.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) netns: &'a Netns,
    pub(super) addresses: Vec<IpAddr>,
}

impl<'a> From<&'a Actor> for Place<'a> {
    fn from(actor: &'a Actor) -> Self {
        Self {
            name: actor.name,
            netns: &actor.pod.netns,
            addresses: actor.pod.addresses().collect(),
        }
    }
}

/// The node's own IPv4 address on the overlay: the first one of its pod CIDR.
pub(super) fn overlay_v4(node: &Node) -> Result<IpAddr> {
    let cidr = node
        .pod_cidrs
        .first()
        .context("a node without a pod CIDR")?;
    let (address, _) = cidr.split_once('/').context("a pod CIDR without length")?;
    Ok(address.parse()?)
}

/// A JSON string without its quotes; anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned)
}

pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}
