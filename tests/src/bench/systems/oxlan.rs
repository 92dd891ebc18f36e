//! Two nodes with real agents.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cable::{Cable, MTU, POD_MTU};
use super::{Path, System};
use crate::binaries::binary;
use crate::cluster::entry;
use crate::node::Node;
use crate::pod::Pod;
use crate::run::output;
use crate::underlay::{UPLINK, node_v4, node_v6};

/// The environment variable of `--xdp`.
const XDP: &str = "OXLAN_XDP";

/// Agents and what they run on. Dropping it ends and removes them.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    _cable: Cable,
}

/// Agents that use TC alone: a path between nodes and one on the first node.
pub(super) fn start_tc() -> Result<(Nodes, Path, Path)> {
    let nodes = Nodes::start(Cable::create(MTU)?, &Network::default())?;
    let client = nodes.nodes[0].add_pod("client")?;
    let between = path(System::Oxlan, &client, &nodes.nodes[1].add_pod("server")?)?;
    let local = path(
        System::OxlanLocal,
        &client,
        &nodes.nodes[0].add_pod("server")?,
    )?;
    Ok((nodes, between, local))
}

/// Agents that use XDP on their uplinks.
///
/// A veth device hands packets to XDP whose checksums nobody has computed, other than a cable; so
/// here they are computed before. It takes VLAN tags out, too, which a driver must not do before XDP.
pub(super) fn start_xdp() -> Result<(Nodes, Path)> {
    let cable = Cable::create(MTU)?;
    for node in &cable.nodes {
        node.run(&format!("ethtool -K {UPLINK} tx off rxvlan off"))?;
    }
    let network = Network {
        xdp: "on",
        ..Network::default()
    };
    between(System::OxlanXdp, cable, &network)
}

/// Agents whose underlay is IPv6, which is wider by what its headers are longer: pods have the same MTU.
pub(super) fn start_v6() -> Result<(Nodes, Path)> {
    let cable = Cable::create(MTU + 20)?;
    for (number, node) in (1..).zip(&cable.nodes) {
        node.run(&format!(
            "ip address add {}/64 dev {UPLINK} nodad",
            node_v6(number)
        ))?;
    }
    let network = Network {
        underlay: |number| node_v6(number).into(),
        ..Network::default()
    };
    between(System::OxlanV6, cable, &network)
}

/// Agents that encapsulate nothing, over an underlay with the pods' MTU; what a routing daemon would do is done by hand.
pub(super) fn start_direct() -> Result<(Nodes, Path)> {
    let cable = Cable::create(POD_MTU)?;
    for (number, node) in (1..).zip(&cable.nodes) {
        let other = 3 - number;
        for cidr in pod_cidrs(other) {
            node.run(&format!("ip route add {cidr} via {}", node_v4(other)))?;
        }
    }
    let network = Network {
        mode: "direct",
        ..Network::default()
    };
    between(System::OxlanDirect, cable, &network)
}

/// What differs between the agents that are compared.
struct Network {
    xdp: &'static str,
    mode: &'static str,
    underlay: fn(u8) -> IpAddr,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            xdp: "off",
            mode: "vxlan",
            underlay: |number| node_v4(number).into(),
        }
    }
}

/// A path between pods of two nodes.
fn between(system: System, cable: Cable, network: &Network) -> Result<(Nodes, Path)> {
    let nodes = Nodes::start(cable, network)?;
    let client = nodes.nodes[0].add_pod("client")?;
    let path = path(system, &client, &nodes.nodes[1].add_pod("server")?)?;
    Ok((nodes, path))
}

/// Whether this agent has the option.
pub(super) fn has_xdp() -> Result<bool> {
    let mut command = std::process::Command::new(binary("oxlan")?);
    Ok(output(command.args(["agent", "--help"]))?.contains("--xdp"))
}

fn path(system: System, client: &Pod, server: &Pod) -> Result<Path> {
    Ok(Path {
        system,
        client: client.netns.clone(),
        server: server.netns.clone(),
        address: server.ipv4()?.into(),
    })
}

impl Nodes {
    fn start(cable: Cable, network: &Network) -> Result<Self> {
        let file = cable.scope.dir().join("cluster.toml");
        let nodes: Vec<Node> = (1..)
            .zip(&cable.nodes)
            .map(|(number, netns)| {
                let cidrs = pod_cidrs(number);
                Node::new(&cable.scope, number, netns.clone(), cidrs, file.clone())
            })
            .collect();
        write_cluster(&file, &nodes, network)?;
        nodes
            .iter()
            .try_for_each(|node| node.spawn_agent_with(&[(XDP, network.xdp)]))?;
        nodes.iter().try_for_each(Node::wait_ready)?;
        Ok(Self {
            nodes,
            _cable: cable,
        })
    }
}

fn pod_cidrs(number: u8) -> Vec<String> {
    vec![format!("10.244.{number}.0/24")]
}

fn write_cluster(file: &PathBuf, nodes: &[Node], network: &Network) -> Result<()> {
    let mode = network.mode;
    let mut text = format!("[network]\nmode = \"{mode}\"\npod_cidrs = [\"10.244.0.0/16\"]\n");
    for node in nodes {
        let underlay = format!("\"{}\"", (network.underlay)(node.number));
        text.push_str(&entry(&node.name, &node.pod_cidrs, &underlay, ""));
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
