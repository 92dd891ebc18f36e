//! A fabric as data centres have it: every node holds its underlay address on the loopback and has
//! two uplinks, each to a router of its own; so there is a router between any two nodes, twice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cluster::entry;
use crate::netns::Netns;
use crate::node::Node;
use crate::scope::Scope;
use crate::underlay::{node_v4, node_v6};
use crate::xdp;

/// A node's uplinks; the first leads to the first router.
pub const UPLINKS: [&str; 2] = ["eth0", "eth1"];

/// Nodes and routers. All have addresses of both families; the cluster file names the nodes' IPv4 ones.
#[derive(Debug)]
pub struct Fabric {
    /// The nodes, whose agents are not started by themselves.
    pub nodes: Vec<Node>,
    /// The routers.
    pub routers: Vec<Netns>,
    scope: Scope,
}

/// Runs a test with a fabric of this many nodes; when it fails, the agents' logs are part of its output.
///
/// # Panics
///
/// If the fabric cannot be made, or the test fails.
#[expect(clippy::panic, reason = "a failed test reports by panicking")]
pub fn with_fabric(nodes: u8, network: &str, test: impl FnOnce(&Fabric) -> Result<()>) {
    let made = Scope::for_test().and_then(|scope| Fabric::create(scope, nodes, network));
    let fabric = made.unwrap_or_else(|error| panic!("the fabric cannot be made: {error:?}"));
    if let Err(error) = test(&fabric) {
        panic!("{error:?}");
    }
}

impl Fabric {
    /// Makes nodes and routers; `network` are more lines of the cluster file's table of this name.
    ///
    /// # Errors
    ///
    /// If a step fails; what was made is removed.
    pub fn create(scope: Scope, nodes: u8, network: &str) -> Result<Self> {
        let file = scope.dir().join("cluster.toml");
        let routers = ["router-0", "router-1"].map(|name| scope.netns(name));
        let mut fabric = Self {
            nodes: Vec::new(),
            routers: routers.into_iter().collect::<Result<_>>()?,
            scope,
        };
        for router in &fabric.routers {
            router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        }
        for number in 1..=nodes {
            fabric.add_node(number, file.clone())?;
        }
        fabric.write_file(network)?;
        Ok(fabric)
    }

    fn add_node(&mut self, number: u8, file: PathBuf) -> Result<()> {
        let node = self.scope.netns(&format!("node-{number}"))?;
        let underlay = node_v4(number);
        let underlay_v6 = node_v6(number);
        node.run_all(&[
            &format!("ip address add {underlay}/32 dev lo"),
            &format!("ip address add {underlay_v6}/128 dev lo"),
        ])?;
        let is_xdp = xdp::is_demanded();
        for ((at, router), uplink) in self.routers.iter().enumerate().zip(UPLINKS) {
            let (own, own_v6) = (uplink_v4(at, number), uplink_v6(at, number));
            node.run_all(&[
                &format!(
                    "ip link add {uplink} type veth peer name node{number} netns {}",
                    router.name()
                ),
                &format!("ip link set {uplink} up"),
                &format!("ip address add {own}/31 dev {uplink}"),
                &format!("ip address add {own_v6}/127 dev {uplink} nodad"),
            ])?;
            if is_xdp {
                xdp::prepare_wire(&node, uplink, router, &format!("node{number}"))?;
            }
            self.plug(at, number)?;
        }
        let [a, b] = [0, 1].map(|at| router_v4(at, number));
        node.run(&format!(
            "ip route add 192.168.50.0/24 src {underlay} nexthop via {a} nexthop via {b}"
        ))?;
        let [a, b] = [0, 1].map(|at| router_v6(at, number));
        node.run(&format!(
            "ip route add fd00:50::/64 src {underlay_v6} nexthop via {a} nexthop via {b}"
        ))?;
        let cidrs = pod_cidrs(number);
        let mut node = Node::new(&self.scope, number, node, cidrs, file);
        node.xdp = is_xdp;
        self.nodes.push(node);
        Ok(())
    }

    /// Puts the cable between a router and a node in, with what the router has to know of the node.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn plug(&self, router: usize, node: u8) -> Result<()> {
        let (v4, v6) = (uplink_v4(router, node), uplink_v6(router, node));
        let own = (router_v4(router, node), router_v6(router, node));
        let lines = [
            format!("ip link set node{node} up"),
            format!("ip address replace {}/31 dev node{node}", own.0),
            format!("ip address replace {}/127 dev node{node} nodad", own.1),
            format!("ip route replace {}/32 via {v4}", node_v4(node)),
            format!("ip route replace {}/128 via {v6}", node_v6(node)),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.routers[router].run_all(&lines)
    }

    /// Pulls the cable between a router and a node: the node's uplink has no carrier.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unplug(&self, router: usize, node: u8) -> Result<()> {
        let line = format!("ip link set node{node} down");
        self.routers[router].run(&line).map(drop)
    }

    /// Writes the cluster file, in place of another.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_file(&self, network: &str) -> Result<()> {
        self.write_file_over(network, |number| node_v4(number).into())
    }

    /// The same with other underlay addresses of the nodes.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_file_over(&self, network: &str, underlay: fn(u8) -> IpAddr) -> Result<()> {
        let mut text =
            format!("[network]\npod_cidrs = [\"10.244.0.0/16\", \"fd00:244::/48\"]\n{network}\n");
        for node in &self.nodes {
            let underlay = format!("\"{}\"", underlay(node.number));
            text.push_str(&entry(&node.name, &node.pod_cidrs, &underlay, ""));
        }
        let file = self.scope.dir().join("cluster.toml");
        let new = file.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Makes routes to all pod CIDRs, on the nodes by both routers, as a routing daemon does.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn route_pods(&self) -> Result<()> {
        for node in &self.nodes {
            let number = node.number;
            let [v4, v6] = [&node.pod_cidrs[0], &node.pod_cidrs[1]];
            for (at, router) in self.routers.iter().enumerate() {
                router.run_all(&[
                    &format!("ip route replace {v4} via {}", uplink_v4(at, number)),
                    &format!("ip route replace {v6} via {}", uplink_v6(at, number)),
                ])?;
            }
            for other in self.nodes.iter().filter(|n| n.number != number) {
                let (via, number) = ("nexthop via", other.number);
                let [a, b] = [0, 1].map(|at| router_v4(at, number));
                let [a6, b6] = [0, 1].map(|at| router_v6(at, number));
                other.netns.run_all(&[
                    &format!("ip route replace {v4} {via} {a} {via} {b}"),
                    &format!("ip route replace {v6} {via} {a6} {via} {b6}"),
                ])?;
            }
        }
        Ok(())
    }

    /// Starts all agents and waits until they answer.
    ///
    /// # Errors
    ///
    /// If one does not.
    pub fn start(&self) -> Result<()> {
        self.nodes.iter().try_for_each(Node::spawn_agent)?;
        self.nodes.iter().try_for_each(Node::wait_ready)
    }

    /// What its things are named after.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Pod CIDRs of the node with this number.
#[must_use]
pub fn pod_cidrs(number: u8) -> Vec<String> {
    vec![
        format!("10.244.{number}.0/24"),
        format!("fd00:244:0:{number:x}::/64"),
    ]
}

/// The router's address on its link to a node.
#[must_use]
pub fn router_v4(router: usize, node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 60, u8::from(router > 0), node * 2)
}

/// A node's address on its link to a router.
#[must_use]
pub fn uplink_v4(router: usize, node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 60, u8::from(router > 0), node * 2 + 1)
}

/// The same for IPv6.
#[must_use]
pub fn router_v6(router: usize, node: u8) -> Ipv6Addr {
    link_v6(router, node, 0)
}

/// The same for IPv6.
#[must_use]
pub fn uplink_v6(router: usize, node: u8) -> Ipv6Addr {
    link_v6(router, node, 1)
}

fn link_v6(router: usize, node: u8, end: u16) -> Ipv6Addr {
    let router = u16::from(router > 0);
    Ipv6Addr::new(0xfd00, 0x60, router, node.into(), 0, 0, 0, end)
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                println!("--- log of {}\n{}", node.name, node.log());
            }
        }
    }
}
