//! Services by rules as kube-proxy writes them in its mode `nftables`, of both families.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oxlan_tests::cluster::{Cluster, Shape, with_cluster};
use oxlan_tests::kube_proxy::{Endpoint, Service, TrafficPolicy, install, refused_nothing};
use oxlan_tests::netns::Netns;
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::UdpSocket;
use oxlan_tests::underlay::{internet, node_v4, node_v6};

use crate::host_ports;
use crate::reach::overlay_addresses;

const LIMIT: Duration = Duration::from_secs(3);

/// Port of a service, and that of the pods behind it.
const PORT: u16 = 80;
const TARGET: u16 = 8080;

/// A pod that listens, one for each node. The service in front of it has the node's number in its addresses
/// and in its port of the nodes.
struct Server {
    node: u8,
    pod: Pod,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    fn start(node: &Node) -> Result<Self> {
        let pod = node.add_pod("server")?;
        let any = ("::", TARGET);
        let tcp = pod.netns.inside(|| Ok(TcpListener::bind(any)?))?;
        let udp = pod.netns.inside(|| Ok(UdpSocket::bind(any)?))?;
        udp.set_read_timeout(Some(LIMIT))?;
        Ok(Self {
            node: node.number,
            pod,
            tcp,
            udp,
        })
    }

    /// Addresses of its service, by family.
    fn service(&self) -> Result<[IpAddr; 2]> {
        let number = self.node;
        let v6 = format!("fd00:96::{number:x}").parse()?;
        Ok([format!("10.96.0.{number}").parse()?, v6])
    }

    /// The service on each port and family, as the rules of one node have it.
    fn ports(&self, node: &Node, policy: TrafficPolicy) -> Result<Vec<Service>> {
        let local = self.node == node.number;
        let mut services = Vec::new();
        for (cluster_ip, pod) in self.service()?.into_iter().zip(self.pod.addresses()) {
            for protocol in ["tcp", "udp"] {
                services.push(Service {
                    name: format!("server-{}", self.node),
                    cluster_ip,
                    protocol,
                    port: PORT,
                    node_port: Some((self.node_port(), policy)),
                    endpoints: vec![Endpoint {
                        pod,
                        port: TARGET,
                        local,
                    }],
                });
            }
        }
        Ok(services)
    }

    fn node_port(&self) -> u16 {
        30_000 + u16::from(self.node)
    }

    /// As whom it sees somebody who talks to an address by TCP and UDP; expects both to be the same.
    fn sees(&self, client: &Netns, to: SocketAddr) -> Result<IpAddr> {
        let by_tcp = host_ports::seen(client, to, &self.tcp).context("by TCP")?;
        let by_udp = self.sees_by_udp(client, to);
        let by_udp = by_udp.with_context(|| format!("by UDP to {to}"))?;
        ensure!(by_tcp == by_udp, "{by_tcp} by TCP, {by_udp} by UDP");
        Ok(by_tcp)
    }

    /// Several datagrams of a flow: the first makes it, the others find it.
    fn sees_by_udp(&self, client: &Netns, to: SocketAddr) -> Result<IpAddr> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let near = client.inside(|| Ok(UdpSocket::bind(any)?))?;
        near.set_read_timeout(Some(LIMIT))?;
        // Nothing but answers of the service is taken.
        near.connect(to)?;
        let mut seen = None;
        for text in ["first", "second", "third"] {
            near.send(text.as_bytes())?;
            let (_, peer) = self.udp.recv_from(&mut [0; 10]).context(text)?;
            self.udp.send_to(text.as_bytes(), peer)?;
            near.recv(&mut [0; 10])
                .with_context(|| format!("answer to the {text}"))?;
            ensure!(seen.is_none_or(|before| before == peer), "{peer}");
            seen = Some(peer);
        }
        Ok(seen.context("nothing was sent")?.ip().to_canonical())
    }
}

/// Two nodes with a server each, and rules on both.
fn with_servers(policy: TrafficPolicy, test: impl FnOnce(&Cluster, &[Server; 2]) -> Result<()>) {
    with_cluster(Shape::nodes(2), |cluster| {
        let [near, far] = [&cluster.nodes[0], &cluster.nodes[1]];
        let servers = [Server::start(near)?, Server::start(far)?];
        for node in &cluster.nodes {
            let services = servers.iter().map(|server| server.ports(node, policy));
            let services: Vec<_> = services.collect::<Result<_>>()?;
            install(node, &services.concat())?;
        }
        test(cluster, &servers)?;
        cluster.nodes.iter().try_for_each(refused_nothing)
    });
}

/// Addresses of a node on the underlay, by family.
fn underlay_addresses(node: &Node) -> [IpAddr; 2] {
    [node_v4(node.number).into(), node_v6(node.number).into()]
}

#[test]
fn pods_reach_a_cluster_ip_as_themselves() {
    with_servers(TrafficPolicy::Cluster, |cluster, servers| {
        let client = cluster.nodes[0].add_pod("client")?;
        for server in servers {
            for (to, own) in server.service()?.into_iter().zip(client.addresses()) {
                let seen = server.sees(&client.netns, (to, PORT).into())?;
                ensure!(seen == own, "{own} is seen as {seen} by way of {to}");
            }
        }
        Ok(())
    });
}

/// What comes back to its sender unmasked would never pass the host again.
#[test]
fn a_pod_reaches_itself_by_its_service() {
    with_servers(TrafficPolicy::Cluster, |_, servers| {
        for server in servers {
            for (to, own) in server.service()?.into_iter().zip(server.pod.addresses()) {
                let seen = server.sees(&server.pod.netns, (to, PORT).into())?;
                ensure!(seen != own, "{own} sees itself by way of {to}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_host_reaches_a_cluster_ip() {
    with_servers(TrafficPolicy::Cluster, |cluster, servers| {
        let node = &cluster.nodes[0];
        for server in servers {
            for (to, overlay) in server.service()?.into_iter().zip(overlay_addresses(node)?) {
                let seen = server.sees(&node.netns, (to, PORT).into())?;
                // In the overlay the node has one address.
                ensure!(
                    server.node == node.number || seen == overlay,
                    "{seen} by {to}"
                );
            }
        }
        Ok(())
    });
}

/// By the node with the pod and by the other one, from outside and from pods.
#[test]
fn a_node_port_for_the_cluster_comes_from_the_node() {
    with_servers(TrafficPolicy::Cluster, |cluster, servers| {
        let pod = cluster.nodes[0].add_pod("client")?;
        for node in &cluster.nodes {
            for server in servers {
                for (at, to) in underlay_addresses(node).into_iter().enumerate() {
                    let to = (to, server.node_port()).into();
                    let seen = server.sees(&cluster.underlay.internet, to)?;
                    ensure!(seen != internet()[at], "not masqueraded on {}", node.name);
                    let far = server.node != node.number;
                    let overlay = overlay_addresses(node)?[at];
                    ensure!(!far || seen == overlay, "{seen} from {}", node.name);
                    server.sees(&pod.netns, to).context("from a pod")?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_local_node_port_shows_who_asks() {
    with_servers(TrafficPolicy::Local, |cluster, servers| {
        let client = cluster.nodes[0].add_pod("client")?;
        for (node, server) in cluster.nodes.iter().zip(servers) {
            for (to, outside) in underlay_addresses(node).into_iter().zip(internet()) {
                let to = (to, server.node_port()).into();
                let seen = server.sees(&cluster.underlay.internet, to)?;
                ensure!(seen == outside, "{outside} is seen as {seen}");
            }
        }
        // A pod is a client of the service whichever node it asks.
        for server in servers {
            let own_node = underlay_addresses(&cluster.nodes[0]).into_iter();
            for (to, own) in own_node.zip(client.addresses()) {
                let seen = server.sees(&client.netns, (to, server.node_port()).into())?;
                ensure!(seen == own, "{own} is seen as {seen}");
            }
        }
        Ok(())
    });
}
