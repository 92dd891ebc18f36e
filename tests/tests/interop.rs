//! Nodes with Oxlan and nodes set up as Flannel sets them up, in one cluster.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use oxlan_tests::capture::{Capture, each_family_over_its_own};
use oxlan_tests::cluster::{Cluster, Families, Shape, with_cluster};
use oxlan_tests::flannel::{host_v6, pod_v6};
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::traffic::{End, tcp, udp};

const MIXED: Shape = Shape {
    plain_nodes: 1,
    v6: false,
    ..Shape::nodes(1)
};

/// Larger than all buffers on the way.
const BULK: usize = 4 << 20;

/// TCP in bulk, UDP small, at the MTU and in fragments, from one end to the other.
fn talk(client: End<'_>, server: End<'_>) -> Result<()> {
    exchange(client, server).with_context(|| format!("{} to {}", client.address, server.address))
}

fn exchange(client: End<'_>, server: End<'_>) -> Result<()> {
    assert_eq!(udp::exchange(client, server, 32, 1)?, client.address);
    assert_eq!(udp::exchange(client, server, 1422, 5)?, client.address);
    assert_eq!(udp::exchange(client, server, 4000, 5)?, client.address);
    assert_eq!(tcp::transfer(client, server, BULK)?, client.address);
    Ok(())
}

/// The fixtures themselves: without Oxlan, plain nodes reach each other, by every kind of traffic.
#[test]
fn interop_plain_nodes_talk() {
    with_cluster(
        Shape {
            plain_nodes: 2,
            v6: false,
            ..Shape::nodes(0)
        },
        |cluster| {
            let (a, a_address) = cluster.plain[0].add_pod(5)?;
            let (b, b_address) = cluster.plain[1].add_pod(5)?;
            let (a, b) = (End::new(&a, a_address), End::new(&b, b_address));
            talk(a, b)?;
            udp::segmented(a, b, 1200, 40)?;
            udp::mixed(a, b, 100)?;
            let stream = UdpStream::start(a, b, Duration::from_millis(1))?;
            stream.wait_for_more(200)?;
            stream.finish()?.expect_perfect(200)
        },
    );
}

#[test]
fn interop_first_contact_from_oxlan() {
    with_cluster(MIXED, |cluster| {
        let ours = cluster.nodes[0].add_pod("a")?;
        let (theirs, address) = cluster.plain[0].add_pod(7)?;
        talk(
            End::new(&ours.netns, ours.ipv4()?),
            End::new(&theirs, address),
        )
    });
}

#[test]
fn interop_first_contact_from_flannel() {
    with_cluster(MIXED, |cluster| {
        let ours = cluster.nodes[0].add_pod("a")?;
        let (theirs, address) = cluster.plain[0].add_pod(7)?;
        talk(
            End::new(&theirs, address),
            End::new(&ours.netns, ours.ipv4()?),
        )
    });
}

#[test]
fn interop_segmented_udp_both_ways() {
    with_cluster(MIXED, |cluster| {
        let ours = cluster.nodes[0].add_pod("a")?;
        let (theirs, address) = cluster.plain[0].add_pod(7)?;
        let (ours, theirs) = (
            End::new(&ours.netns, ours.ipv4()?),
            End::new(&theirs, address),
        );
        udp::segmented(ours, theirs, 1200, 40)?;
        udp::segmented(theirs, ours, 1200, 40)
    });
}

/// Flannel sends host traffic from the address of `flannel.1`, Oxlan from that of `oxlan0`.
#[test]
fn interop_hosts_reach_pods() {
    with_cluster(MIXED, |cluster| {
        let ours = cluster.nodes[0].add_pod("a")?;
        let (theirs, address) = cluster.plain[0].add_pod(7)?;
        let our_host = End::new(&cluster.nodes[0].netns, host_address(1));
        let their_host = End::new(&cluster.plain[0].netns, host_address(2));
        talk(our_host, End::new(&theirs, address))?;
        talk(their_host, End::new(&ours.netns, ours.ipv4()?))?;
        talk(End::new(&ours.netns, ours.ipv4()?), their_host)?;
        talk(End::new(&theirs, address), our_host)
    });
}

#[test]
fn interop_three_nodes() {
    with_cluster(
        Shape {
            plain_nodes: 1,
            v6: false,
            ..Shape::nodes(2)
        },
        |cluster| {
            let (theirs, address) = cluster.plain[0].add_pod(7)?;
            for node in &cluster.nodes {
                let pod = node.add_pod("a")?;
                talk(
                    End::new(&pod.netns, pod.ipv4()?),
                    End::new(&theirs, address),
                )?;
                talk(
                    End::new(&theirs, address),
                    End::new(&pod.netns, pod.ipv4()?),
                )?;
            }
            no_drops(cluster)
        },
    );
}

/// Nothing of all this may have looked foreign.
fn no_drops(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        for reason in [
            "unknown-vtep",
            "wrong-vni",
            "wrong-inner-mac",
            "foreign-inner-source",
        ] {
            assert_eq!(node.drops(reason)?, 0, "{reason} on {}", node.name);
        }
    }
    Ok(())
}

fn host_address(node: u8) -> IpAddr {
    std::net::Ipv4Addr::new(10, 244, node, 0).into()
}

/// IPv6 pods over IPv6, IPv4 pods over IPv4, as Flannel does it in a cluster of both families.
const DUAL: Shape = Shape {
    plain_nodes: 1,
    ..Shape::nodes(1).over(Families::Both)
};

/// The same with IPv6 alone.
const IPV6: Shape = Shape {
    v4: false,
    ..DUAL.over(Families::V6)
};

/// Every kind of traffic, both ways, between a pod of ours and one of theirs, in these families.
fn pods_talk(cluster: &Cluster) -> Result<()> {
    let ours = cluster.nodes[0].add_pod("a")?;
    let (theirs, v4) = cluster.plain[0].add_pod(7)?;
    let v6 = pod_v6(cluster.plain[0].number, 7);
    for (our_address, their_address) in ours.addresses().map(|ours| match ours {
        IpAddr::V4(_) => (ours, v4.into()),
        IpAddr::V6(_) => (ours, IpAddr::from(v6)),
    }) {
        let ours = End::new(&ours.netns, our_address);
        let theirs = End::new(&theirs, their_address);
        talk(ours, theirs)?;
        talk(theirs, ours)?;
        for (client, server) in [(ours, theirs), (theirs, ours)] {
            udp::segmented(client, server, 1200, 40)?;
            udp::mixed(client, server, 100)?;
        }
        let stream = UdpStream::start(ours, theirs, Duration::from_millis(1))?;
        stream.wait_for_more(200)?;
        stream.finish()?.expect_perfect(200)?;
    }
    no_drops(cluster)
}

#[test]
fn interop_over_ipv6() {
    with_cluster(IPV6, pods_talk);
}

#[test]
fn interop_each_family_over_its_own() {
    with_cluster(DUAL, |cluster| {
        let switch = &cluster.underlay.switch;
        let options = "-t";
        let capture = Capture::start(cluster.scope(), switch, "br0", options, "udp port 8472")?;
        pods_talk(cluster)?;
        each_family_over_its_own(&capture.finish()?)
    });
}

#[test]
fn interop_hosts_reach_pods_over_ipv6() {
    with_cluster(IPV6, |cluster| {
        let ours = cluster.nodes[0].add_pod("a")?;
        let (theirs, _) = cluster.plain[0].add_pod(7)?;
        let ours = End::new(&ours.netns, ours.ipv6()?);
        let theirs = End::new(&theirs, pod_v6(2, 7));
        let our_host = End::new(&cluster.nodes[0].netns, host_v6(1));
        let their_host = End::new(&cluster.plain[0].netns, host_v6(2));
        talk(our_host, theirs)?;
        talk(their_host, ours)?;
        talk(ours, their_host)?;
        talk(theirs, our_host)
    });
}
