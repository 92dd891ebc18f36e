//! Who reaches whom: pods and hosts, on one node and across, in both families, by TCP, UDP and ICMP.

use std::net::IpAddr;

use anyhow::{Context, Result};
use oxlan_tests::cluster::{Shape, with_cluster};
use oxlan_tests::node::Node;
use oxlan_tests::pod::Pod;
use oxlan_tests::traffic::{End, tcp, udp};

/// Larger than all buffers on the way.
const BULK: usize = 4 << 20;

/// Everything from one end to the other, whose source address must stay what it is.
fn talk(client: End<'_>, server: End<'_>) -> Result<()> {
    let what = || format!("{} to {}", client.address, server.address);
    let target = server.address;
    client
        .netns
        .run(&format!(
            "ping -n -q -c 2 -i 0.05 -W 2 -I {} {target}",
            client.address
        ))
        .with_context(what)?;
    assert_eq!(
        udp::exchange(client, server, 100, 3).with_context(what)?,
        client.address
    );
    assert_eq!(
        tcp::transfer(client, server, BULK).with_context(what)?,
        client.address
    );
    Ok(())
}

/// Two pods, in every family that both have, both ways.
fn pods_talk(a: &Pod, b: &Pod) -> Result<()> {
    let pairs: Vec<(IpAddr, IpAddr)> = a.addresses().zip(b.addresses()).collect();
    assert!(!pairs.is_empty());
    for (from, to) in pairs {
        talk(End::new(&a.netns, from), End::new(&b.netns, to))?;
        talk(End::new(&b.netns, to), End::new(&a.netns, from))?;
    }
    Ok(())
}

/// The node's overlay addresses: the first of each pod CIDR.
pub(super) fn overlay_addresses(node: &Node) -> Result<Vec<IpAddr>> {
    let first = |cidr: &String| cidr.split('/').next().unwrap_or_default().to_owned();
    node.pod_cidrs
        .iter()
        .map(|cidr| Ok(first(cidr).parse()?))
        .collect()
}

#[test]
fn pods_of_one_node() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
        pods_talk(&a, &b)?;
        assert!(
            node.verdicts("local-pod")? > 0,
            "the fast path was not used"
        );
        Ok(())
    });
}

#[test]
fn pods_of_two_nodes() {
    with_cluster(Shape::nodes(2), |cluster| {
        let a = cluster.nodes[0].add_pod("a")?;
        let b = cluster.nodes[1].add_pod("b")?;
        pods_talk(&a, &b)?;
        for node in &cluster.nodes {
            assert!(node.verdicts("to-vtep")? > 0 && node.received()? > 0);
        }
        Ok(())
    });
}

#[test]
fn pods_of_three_nodes() {
    with_cluster(Shape::nodes(3), |cluster| {
        let pods = cluster
            .nodes
            .iter()
            .map(|node| node.add_pod("a"))
            .collect::<Result<Vec<_>>>()?;
        for (number, pod) in pods.iter().enumerate() {
            pods_talk(pod, &pods[(number + 1) % pods.len()])?;
        }
        Ok(())
    });
}

#[test]
fn pods_with_one_family() {
    for (v4, v6) in [(true, false), (false, true)] {
        with_cluster(
            Shape {
                v4,
                v6,
                ..Shape::nodes(2)
            },
            |cluster| {
                let a = cluster.nodes[0].add_pod("a")?;
                let b = cluster.nodes[0].add_pod("b")?;
                let c = cluster.nodes[1].add_pod("c")?;
                assert_eq!((a.v4.is_some(), a.v6.is_some()), (v4, v6));
                pods_talk(&a, &b)?;
                pods_talk(&a, &c)
            },
        );
    }
}

/// In both directions, whichever source address the host chooses.
fn host_and_pod_talk(node: &Node, pod: &Pod) -> Result<()> {
    for (host, address) in overlay_addresses(node)?.into_iter().zip(pod.addresses()) {
        talk(End::new(&node.netns, host), End::new(&pod.netns, address))?;
        talk(End::new(&pod.netns, address), End::new(&node.netns, host))?;
        // The host's own choice of the source address must lead back, too.
        node.netns.run(&format!("ping -n -q -c 1 -W 2 {address}"))?;
    }
    Ok(())
}

#[test]
fn a_host_and_its_own_pods() {
    with_cluster(Shape::nodes(1), |cluster| {
        let node = &cluster.nodes[0];
        let pod = node.add_pod("a")?;
        host_and_pod_talk(node, &pod)
    });
}

#[test]
fn a_host_and_pods_of_another_node() {
    with_cluster(Shape::nodes(2), |cluster| {
        let node = &cluster.nodes[0];
        let pod = cluster.nodes[1].add_pod("a")?;
        host_and_pod_talk(node, &pod)
    });
}

/// A pod may use a node's underlay address: its own node's, and the other's.
#[test]
fn a_pod_and_underlay_addresses() {
    with_cluster(Shape::nodes(2), |cluster| {
        let pod = cluster.nodes[0].add_pod("a")?;
        let client = End::new(&pod.netns, pod.ipv4()?);
        for node in &cluster.nodes {
            let server = End::new(&node.netns, node.underlay);
            tcp::transfer(client, server, BULK)?;
            udp::exchange(client, server, 100, 3)?;
        }
        Ok(())
    });
}
