//! The systems that are compared.

use std::net::IpAddr;

use anyhow::Result;

use crate::cluster::{Cluster, Shape};
use crate::netns::Netns;
use crate::pod::Pod;
use crate::scope::Scope;
use crate::underlay::node_v4;

/// A way for packets from a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum System {
    /// Between two nodes without any overlay: the limit.
    Host,
    /// Between pods of two nodes over the kernel's bridge and VXLAN device, as Flannel sets them up.
    KernelVxlan,
    /// Between pods of two nodes over Oxlan.
    Oxlan,
    /// Between two namespaces joined by one veth pair: the limit on one node.
    Veth,
    /// Between two pods of a node over the kernel's bridge.
    KernelBridge,
    /// Between two pods of a node over Oxlan.
    OxlanLocal,
}

impl System {
    /// Between nodes, and on one node; the first of a group is its limit.
    pub(super) const GROUPS: [(&str, &[Self]); 2] = [
        (
            "node to node",
            &[Self::Host, Self::KernelVxlan, Self::Oxlan],
        ),
        (
            "same node",
            &[Self::Veth, Self::KernelBridge, Self::OxlanLocal],
        ),
    ];

    /// Its name in tables.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Host => "host to host",
            Self::KernelVxlan => "kernel bridge + VXLAN",
            Self::Oxlan | Self::OxlanLocal => "Oxlan",
            Self::Veth => "bare veth pair",
            Self::KernelBridge => "kernel bridge",
        }
    }

    /// Its name in JSON.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::KernelVxlan => "kernel_vxlan",
            Self::Oxlan => "oxlan",
            Self::Veth => "veth",
            Self::KernelBridge => "kernel_bridge",
            Self::OxlanLocal => "oxlan_local",
        }
    }
}

/// Where the client and the server of a system are.
pub(super) struct Path {
    pub(super) system: System,
    pub(super) client: Netns,
    pub(super) server: Netns,
    pub(super) address: IpAddr,
}

/// All systems, set up.
pub(super) struct Systems {
    paths: Vec<Path>,
    // Dropped last: removes everything.
    _cluster: Cluster,
}

impl Systems {
    /// Two nodes with agents, two as Flannel sets them up, on one underlay; two pods on the first of each.
    pub(super) fn start() -> Result<Self> {
        let shape = Shape {
            plain_nodes: 2,
            v6: false,
            ..Shape::nodes(2)
        };
        let cluster = Cluster::start(Scope::for_test()?, shape)?;
        let paths = vec![
            between_hosts(&cluster),
            between_plain_pods(&cluster, System::KernelVxlan, [0, 1])?,
            between_pods(&cluster, System::Oxlan, [0, 1])?,
            over_veth(cluster.scope())?,
            between_plain_pods(&cluster, System::KernelBridge, [0, 0])?,
            between_pods(&cluster, System::OxlanLocal, [0, 0])?,
        ];
        Ok(Self {
            paths,
            _cluster: cluster,
        })
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter()
    }
}

fn between_hosts(cluster: &Cluster) -> Path {
    let [client, server] = [&cluster.nodes[0], &cluster.nodes[1]];
    Path {
        system: System::Host,
        client: client.netns.clone(),
        server: server.netns.clone(),
        address: node_v4(server.number).into(),
    }
}

fn between_pods(cluster: &Cluster, system: System, nodes: [usize; 2]) -> Result<Path> {
    let pod = |node: usize, role| -> Result<Pod> {
        cluster.nodes[node].add_pod(&format!("{}-{role}", system.key().replace('_', "-")))
    };
    let (client, server) = (pod(nodes[0], "client")?, pod(nodes[1], "server")?);
    let address = server.ipv4()?.into();
    Ok(Path {
        system,
        client: client.netns,
        server: server.netns,
        address,
    })
}

fn between_plain_pods(cluster: &Cluster, system: System, nodes: [usize; 2]) -> Result<Path> {
    // Last bytes of addresses: different ones for the two systems, which share a node.
    let first = if system == System::KernelVxlan {
        10
    } else {
        20
    };
    let (client, _) = cluster.plain[nodes[0]].add_pod(first)?;
    let (server, address) = cluster.plain[nodes[1]].add_pod(first + 1)?;
    Ok(Path {
        system,
        client,
        server,
        address: address.into(),
    })
}

fn over_veth(scope: &Scope) -> Result<Path> {
    let (client, server) = (scope.netns("veth-client")?, scope.netns("veth-server")?);
    let mtu = 1450;
    client.run_all(&[
        &format!(
            "ip link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            server.name()
        ),
        "ip link set eth0 up",
        "ip address add 192.0.2.1/24 dev eth0",
    ])?;
    server.run_all(&[
        "ip link set eth0 up",
        "ip address add 192.0.2.2/24 dev eth0",
    ])?;
    Ok(Path {
        system: System::Veth,
        client,
        server,
        address: [192, 0, 2, 2].into(),
    })
}
