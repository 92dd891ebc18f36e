//! Two nodes with real agents.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cable::{Cable, MTU};
use super::{Path, System};
use crate::binaries::binary;
use crate::cluster::node_entry;
use crate::node::Node;
use crate::pod::Pod;
use crate::run::output;
use crate::underlay::UPLINK;

/// The environment variable of `--xdp`.
const XDP: &str = "OXLAN_XDP";

/// Agents and what they run on. Dropping it ends and removes them.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    _cable: Cable,
}

/// Agents that use TC alone: a path between nodes and one on the first node.
pub(super) fn start_tc() -> Result<(Nodes, Path, Path)> {
    let nodes = Nodes::start(Cable::create(MTU)?, "off")?;
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
    let nodes = Nodes::start(cable, "on")?;
    let client = nodes.nodes[0].add_pod("client")?;
    let between = path(
        System::OxlanXdp,
        &client,
        &nodes.nodes[1].add_pod("server")?,
    )?;
    Ok((nodes, between))
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
    fn start(cable: Cable, xdp: &str) -> Result<Self> {
        let file = cable.scope.dir().join("cluster.toml");
        let nodes: Vec<Node> = (1..)
            .zip(&cable.nodes)
            .map(|(number, netns)| {
                let cidrs = pod_cidrs(number);
                Node::new(&cable.scope, number, netns.clone(), cidrs, file.clone())
            })
            .collect();
        write_cluster(&file, &nodes)?;
        nodes
            .iter()
            .try_for_each(|node| node.spawn_agent_with(&[(XDP, xdp)]))?;
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

fn write_cluster(file: &PathBuf, nodes: &[Node]) -> Result<()> {
    let mut text = "[network]\npod_cidrs = [\"10.244.0.0/16\"]\n".to_owned();
    for node in nodes {
        text.push_str(&node_entry(&node.name, &node.pod_cidrs, node.number, ""));
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
