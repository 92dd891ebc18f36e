//! The kernel's own ways: the limits, and what Flannel sets up.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::cable::{Cable, MTU, POD_MTU};
use super::{Path, System};
use crate::cluster::Shape;
use crate::flannel::PlainNode;
use crate::netns::Netns;
use crate::underlay::node_v4;

/// Two hosts. Their packets are as large as those of pods, so that the limit is that of the same MTU.
pub(super) fn hosts() -> Result<(Cable, Path)> {
    joined(System::Host)
}

/// Two namespaces as two pods of one node would be at best.
pub(super) fn veth() -> Result<(Cable, Path)> {
    joined(System::Veth)
}

fn joined(system: System) -> Result<(Cable, Path)> {
    let cable = Cable::create(POD_MTU)?;
    let [client, server] = cable.nodes.clone();
    let path = Path {
        system,
        client,
        server,
        address: node_v4(2).into(),
    };
    Ok((cable, path))
}

/// Bridge and VXLAN device between nodes, and the bridge alone between pods of the first.
pub(super) fn flannel() -> Result<(Cable, Path, Path)> {
    let cable = Cable::create(MTU)?;
    let [first, second] = &cable.nodes;
    let shape = Shape {
        v6: false,
        mtu: MTU,
        ..Shape::nodes(0)
    };
    let node =
        |number, netns: &Netns| PlainNode::create(&cable.scope, number, netns.clone(), shape);
    let (first, second) = (node(1, first)?, node(2, second)?);
    first.add_peer(2, &second.vtep_macs)?;
    second.add_peer(1, &first.vtep_macs)?;
    let client = first.add_pod(10)?.0;
    let path = |system, (server, address): (Netns, Ipv4Addr)| Path {
        system,
        client: client.clone(),
        server,
        address: address.into(),
    };
    let between = path(System::KernelVxlan, second.add_pod(10)?);
    let local = path(System::KernelBridge, first.add_pod(11)?);
    Ok((cable, between, local))
}
